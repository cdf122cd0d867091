from __future__ import annotations

import json

import pytest
from hydra.core.utils import JobReturn
from hydra.types import RunMode
from omegaconf import OmegaConf

from introspect.tracking.study import Run, StudyTable, log_study, read_runs, study
from introspect.tracking.wandb import finish

NAMES = {"test/accuracy": "accuracy", "dissect/detectors/total": "detectors", "model/aes": "AES"}


def runs():
    found = {
        "scratch": {"1": (0.70, 10), "2": (0.72, 14), "3": (0.74, 12)},
        "kd": {"1": (0.75, 13), "2": (0.75, 15), "3": (0.78, 17)},
    }
    return [
        Run(arm, seed, {"test/accuracy": accuracy, "dissect/detectors/total": float(detectors)})
        for arm, seeds in found.items()
        for seed, (accuracy, detectors) in seeds.items()
    ]


def test_arms_stand_side_by_side_and_differences_are_paired_by_seed():
    assert study(runs(), NAMES).splitlines() == [
        "| mean ± sd over seeds | scratch | kd |",
        "|---|---|---|",
        "| seeds | 1, 2, 3 | 1, 2, 3 |",
        "| accuracy | 0.720 ± 0.020 | 0.760 ± 0.017 |",
        "| detectors | 12.0 ± 2.0 | 15.0 ± 2.0 |",
        "",
        "| difference to scratch, paired by seed | kd |",
        "|---|---|",
        "| accuracy | +0.040 ± 0.010 |",
        "| detectors | +3.0 ± 2.0 |",
    ]


def test_a_seed_without_its_pair_takes_no_part_in_the_difference():
    kept = [run for run in runs() if (run.arm, run.seed) != ("scratch", "2")]
    assert "| detectors | +4.0 ± 1.4 |" in study(kept, NAMES).splitlines()


def test_nothing_measured_is_no_table():
    assert study([Run("a", "1", {"other": 1.0})], NAMES) is None
    assert study([], NAMES) is None


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


def test_a_sweeps_folder_is_read_and_what_failed_is_named(tmp_path, caplog):
    job(tmp_path, 0, ["experiment=kd", "seed=1"], {"test/accuracy": 0.5})
    job(tmp_path, 1, ["experiment=mbt_r", "seed=2"], {"model": {"aes": 3.0, "n": 5}, "baseline": {"aes": None}})
    job(tmp_path, 2, ["model.lr=0.1", "trainer=cpu", "seed=3"], None)
    job(tmp_path, 10, ["model.lr=0.1", "trainer=cpu"], {"test/accuracy": 1})
    found = read_runs(tmp_path)
    assert found == [
        Run("kd", "1", {"test/accuracy": 0.5}),
        Run("mbt_r", "2", {"model/aes": 3.0, "model/n": 5.0}),
        Run("model.lr=0.1, trainer=cpu", "", {"test/accuracy": 1.0}),
    ]
    StudyTable(NAMES).on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert f"{tmp_path / '2'}: no metrics.json" in caplog.text


def test_what_all_runs_have_in_common_is_no_name(tmp_path):
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


def test_the_table_is_left_in_the_sweeps_folder(tmp_path, capsys):
    job(tmp_path, 0, ["experiment=kd", "seed=1"], {"test/accuracy": 0.5})
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    StudyTable(NAMES).on_multirun_end(config)
    assert "| accuracy | 0.500 |" in (tmp_path / "study.md").read_text()
    assert "0.500" in capsys.readouterr().out


@pytest.mark.parametrize(("config", "group"), [({}, "kd"), ({"study": "concept_detectors"}, "concept_detectors")])
def test_wandb_gets_the_runs_in_their_own_group(tmp_path, monkeypatch, config, group):
    import wandb

    seen = []
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("introspect.tracking.study.finish", lambda: seen.append(wandb.run.group) or finish())
    config |= {"logger": {"wandb": {"project": "p", "offline": True, "group": "${hydra:nothing}"}}}
    job(tmp_path, 0, ["experiment=kd", "seed=1"], {"test/accuracy": 0.5}, config)
    job(tmp_path, 1, ["experiment=kd", "seed=2"], {"dissect/detectors/total": 3.0}, config)
    log_study(tmp_path, read_runs(tmp_path), NAMES)
    assert seen == [f"{group} {tmp_path.name}"]
    [table] = tmp_path.glob("wandb/offline-run-*/files/media/table/study*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["arm", "seed", "accuracy", "detectors"]
    assert content["data"] == [["kd", "1", 0.5, None], ["kd", "2", None, 3.0]]


def test_without_wandb_nothing_is_logged(tmp_path):
    job(tmp_path, 0, ["experiment=kd", "seed=1"], {"test/accuracy": 0.5}, {"logger": {"csv": {}}})
    log_study(tmp_path, read_runs(tmp_path), NAMES)
    assert not (tmp_path / "wandb").exists()


def test_the_table_is_there_as_soon_as_there_is_a_run(tmp_path):
    """Hydra does not come to the end of a sweep in which a run fails."""
    job(tmp_path, 0, ["experiment=kd", "seed=1"], {"test/accuracy": 0.5})
    hydra = {"mode": RunMode.MULTIRUN, "sweep": {"dir": str(tmp_path)}}
    StudyTable(NAMES).on_job_end(OmegaConf.create({"hydra": hydra}), JobReturn())
    assert "| accuracy | 0.500 |" in (tmp_path / "study.md").read_text()
    assert not list(tmp_path.glob("*.partial"))


def test_a_seed_that_comes_again_is_a_run_of_its_own(tmp_path):
    for number in range(2):
        job(tmp_path, number, ["experiment=kd", "++seed=1"], {"test/accuracy": 0.5 + number / 10})
    assert [(run.arm, run.seed) for run in read_runs(tmp_path)] == [("kd", "1"), ("kd", "1 (2)")]
    assert "| accuracy | 0.550 ± 0.071 |" in study(read_runs(tmp_path), NAMES)
