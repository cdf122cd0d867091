from __future__ import annotations

import json

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from introspect.sweeps.jobs import read_record
from introspect.sweeps.study import StudyTable, log_study, read_runs
from introspect.tracking.loggers import finish_wandb
from introspect.tracking.table import Run, compare_arms, markdown

NAMES = {"test/accuracy": "accuracy ↑", "dissect/detectors/total": "detectors", "model/aes": "AES"}


def job(folder, number, overrides, metrics, config=None):
    place = folder / str(number)
    (place / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(overrides), place / ".hydra/overrides.yaml")
    OmegaConf.save(OmegaConf.create(config or {}), place / ".hydra/config.yaml")
    OmegaConf.save(
        OmegaConf.create({"hydra": {"runtime": {"choices": {"experiment": "kd"}}}}), place / ".hydra/hydra.yaml"
    )
    if metrics is not None:
        (place / "metrics.json").write_text(json.dumps(metrics))
        (place / "job.json").write_text(json.dumps({"status": "finished", "identity": str(number)}))


def test_the_runs_of_a_sweep_are_read_and_a_failed_one_is_named(tmp_path, caplog):
    job(tmp_path, 0, ["experiment=kd", "seed=1"], {"test/accuracy": 0.5})
    job(tmp_path, 1, ["experiment=mbt_r", "seed=2"], {"model": {"aes": 3.0, "n": 5}, "baseline": {"aes": None}})
    job(tmp_path, 2, ["model.lr=0.1", "trainer=cpu", "seed=3"], None)
    job(tmp_path, 10, ["model.lr=0.1", "trainer=cpu"], {"test/accuracy": 1})
    found = read_runs(tmp_path)
    assert found == [
        Run("kd", "1", {"test/accuracy": 0.5}),
        Run("mbt_r", "2", {"model/aes": 3.0, "model/n": 5.0}),
        Run("model.lr=0.1, trainer=cpu", "3", {}, "unfinished"),
        Run("model.lr=0.1, trainer=cpu", "", {"test/accuracy": 1.0}),
    ]
    StudyTable(NAMES).on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert f"{tmp_path / '2'}: no metrics.json" in caplog.text


def test_settings_that_all_runs_share_are_not_in_their_names(tmp_path):
    for number, (lr, seed) in enumerate([(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]):
        overrides = ["experiment=kd", f"++model.lr={lr}", "trainer=cpu", f"seed={seed}", "~debug"]
        job(tmp_path, number, overrides, {"test/accuracy": 0.5})
    names = [(run.arm, run.seed) for run in read_runs(tmp_path)]
    assert names == [
        ("kd, model.lr=0.1", "1"),
        ("kd, model.lr=0.1", "2"),
        ("kd, model.lr=0.2", "1"),
        ("kd, model.lr=0.2", "2"),
    ]


@pytest.mark.parametrize(("config", "group"), [({}, "kd"), ({"study": "concept_detectors"}, "concept_detectors")])
def test_wandb_gets_the_runs_in_their_own_group(tmp_path, monkeypatch, config, group):
    import wandb

    seen = []
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(
        "introspect.tracking.loggers.finish_wandb", lambda: seen.append(wandb.run.group) or finish_wandb()
    )
    config |= {"logger": {"wandb": {"project": "p", "offline": True, "group": "${hydra:nothing}"}}}
    job(tmp_path, 0, ["experiment=kd", "seed=1"], {"test/accuracy": 0.5}, config)
    job(tmp_path, 1, ["experiment=kd", "seed=2"], {"dissect/detectors/total": 3.0}, config)
    found = read_runs(tmp_path)
    log_study(tmp_path, found, NAMES, compare_arms(found, NAMES))
    assert seen == [f"{group} {tmp_path.name}"]
    [table] = tmp_path.glob("wandb/offline-run-*/files/media/table/study_[0-9]*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["arm", "seed", "status", "accuracy ↑", "detectors"]
    assert content["data"] == [["kd", "1", "finished", 0.5, None], ["kd", "2", "finished", None, 3.0]]


def test_without_wandb_nothing_is_logged(tmp_path):
    job(tmp_path, 0, ["experiment=kd", "seed=1"], {"test/accuracy": 0.5}, {"logger": {"csv": {}}})
    found = read_runs(tmp_path)
    log_study(tmp_path, found, NAMES, compare_arms(found, NAMES))
    assert not (tmp_path / "wandb").exists()


def test_the_table_is_written_after_each_job(tmp_path):
    """Hydra does not come to the end of a sweep in which a run fails."""
    job(tmp_path, 0, ["experiment=kd", "seed=1"], {"test/accuracy": 0.5})
    (tmp_path / "0/.hydra/config.yaml").write_text("a: 1\n")
    hydra = {
        "mode": RunMode.MULTIRUN,
        "sweep": {"dir": str(tmp_path)},
        "runtime": {"output_dir": str(tmp_path / "0")},
    }
    returned = JobReturn(status=JobStatus.COMPLETED)
    StudyTable(NAMES).on_job_end(OmegaConf.create({"hydra": hydra, "a": 1}), returned)
    assert read_record(tmp_path / "0").status == "finished"
    assert "| accuracy ↑ | 0.500 |" in (tmp_path / "study.md").read_text()
    assert not list(tmp_path.glob("*.partial"))


def test_a_repeated_seed_is_another_run(tmp_path):
    for number in range(2):
        job(tmp_path, number, ["experiment=kd", "++seed=1"], {"test/accuracy": 0.5 + number / 10})
    assert [(run.arm, run.seed) for run in read_runs(tmp_path)] == [("kd", "1"), ("kd", "1 (2)")]
    assert "| accuracy ↑ | 0.550 ± 0.071 |" in markdown(compare_arms(read_runs(tmp_path), NAMES))


def test_the_status_of_a_run_is_in_the_table(tmp_path):
    job(tmp_path, 0, ["experiment=kd", "seed=1"], {"test/accuracy": 0.5})
    job(tmp_path, 1, ["experiment=kd", "seed=2"], {"test/accuracy": 0.7})
    (tmp_path / "1/job.json").write_text(json.dumps({"status": "failed", "identity": "x", "error": "no memory"}))
    job(tmp_path, 2, ["experiment=kd", "seed=3"], None)
    (tmp_path / "2/job.json").write_text(json.dumps({"status": "pruned", "identity": "y"}))
    job(tmp_path, 3, ["experiment=kd", "seed=4"], None)
    [block] = compare_arms(read_runs(tmp_path), NAMES)
    assert block.cells["kd"].to_dict() == {"seeds": "1; failed: 2; pruned: 3; unfinished: 4", "accuracy ↑": "0.500"}


@pytest.mark.parametrize("content", [b'{"test/accuracy": 0.', b"", b"[1, 2]", b"\xff\xfe"])
def test_a_run_with_unreadable_metrics_is_broken_in_the_table(tmp_path, caplog, content):
    job(tmp_path, 0, ["experiment=kd", "seed=1"], {"test/accuracy": 0.5})
    job(tmp_path, 1, ["experiment=kd", "seed=2"], None)
    (tmp_path / "1/metrics.json").write_bytes(content)
    (tmp_path / "1/job.json").write_text(json.dumps({"status": "finished", "identity": "x", "value": 0.7}))
    assert read_runs(tmp_path)[1] == Run("kd", "2", {}, "broken")
    StudyTable(NAMES).on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    study = (tmp_path / "study.md").read_text()
    assert "| seeds | 1; broken: 2 |" in study
    assert "| accuracy ↑ | 0.500 |" in study
    assert f"{tmp_path / '1/metrics.json'} is not readable as JSON" in caplog.text


def test_a_job_that_was_run_again_is_in_the_table_once(tmp_path):
    job(tmp_path, 0, ["experiment=kd", "seed=1"], None)
    (tmp_path / "0/job.json").write_text(json.dumps({"status": "failed", "identity": "x", "error": "?"}))
    job(tmp_path, 1, ["experiment=kd", "seed=1"], {"test/accuracy": 0.5})
    (tmp_path / "1/job.json").write_text(json.dumps({"status": "finished", "identity": "x", "value": 0.5}))
    assert read_runs(tmp_path) == [Run("kd", "1", {"test/accuracy": 0.5, "objective": 0.5})]


def test_the_objective_of_a_search_is_a_row(tmp_path, capsys):
    job(tmp_path, 0, ["lr=0.1"], None)
    (tmp_path / "0/job.json").write_text(json.dumps({"status": "finished", "identity": "x", "value": 0.25}))
    job(tmp_path, 1, ["lr=0.2"], None)
    (tmp_path / "1/job.json").write_text(json.dumps({"status": "finished", "identity": "y", "value": 0.5}))
    hydra = {"sweep": {"dir": str(tmp_path)}, "sweeper": {"direction": "minimize"}}
    StudyTable(NAMES).on_multirun_end(OmegaConf.create({"hydra": hydra, "optimized_metric": "val/loss"}))
    assert "0.250" in capsys.readouterr().out
    assert "| val/loss ↓ | **0.250** | 0.500 |" in (tmp_path / "study.md").read_text()
    assert r"val/loss $\downarrow$ & \textbf{0.250} & 0.500 \\" in (tmp_path / "study.tex").read_text()
