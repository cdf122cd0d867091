"""The two commands on the reasoning task, whole, with a student of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig

from introspect.app import evaluate, train
from introspect.evaluation.runs import Runs
from introspect.tracking.dashboard import SECTIONS
from tests.composing import compose_config
from tests.tuning.tiny import tiny_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny", context=2048, tags=True)


def training(folder: Path, student: Path, *overrides: str) -> DictConfig:
    """MBT-S: the teacher alone makes the traces, as a student of random weights has nothing to say."""
    settings = [
        "experiment=mbt_s",
        f"model.model={student}",
        "data.sizes.train=12",
        "data.sizes.validation=2",
        "data.sizes.test=4",
        "sampling.max_tokens=8",
        "datamodule.max_length=2048",
        "datamodule.batch_size=4",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "callbacks.answer_accuracy.every_n_epochs=1",
        "extras.print_config=false",
    ]
    return compose_config("train", [*settings, *overrides], folder)


def measuring(folder: Path, *overrides: str) -> DictConfig:
    settings = ["data.sizes.test=4", "sampling.max_tokens=8", "logger=csv", "extras.print_config=false"]
    return compose_config("evaluate", [*settings, *overrides], folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, student: Path) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("trained")
    return folder, train(training(folder, student, "logger=csv"))


def test_training_leaves_everything_behind(trained: tuple[Path, dict[str, float]]) -> None:
    folder, metrics = trained
    run = folder / "run"
    assert {
        "train/loss",
        "val/loss",
        "val/accuracy",
        "train/tokens_seen",
        "test/accuracy",
        "test/aes",
    } <= metrics.keys()
    content = json.loads((run / "metrics.json").read_text())
    assert content["model"]["accuracy"] == metrics["test/accuracy"]
    assert content["baseline"]["n"] == content["model"]["n"] == 4
    assert content["judge"]["identity"]["model"] == "oracle-judge"
    assert content["model"]["judge_unparsed"] == content["model"]["judge_failed"] == metrics["test/failed"] == 0
    assert {"test/rrp_r", "test/mqi_level", "test/baseline/judge_accuracy"} <= metrics.keys()
    assert pq.read_table(run / "judgments/model.parquet").num_rows > 4
    for name in ("checkpoints/last.ckpt", "student/config.json", "traces/traces.parquet", "csv/version_0/metrics.csv"):
        assert (run / name).is_file(), name
    assert (folder / "data/cache/responses.sqlite").is_file()
    runs = Runs.load(run)
    assert runs.baseline is not None
    assert len(runs.baseline) == len(runs.model) == 4


def test_dashboards_show_what_is_logged(trained: tuple[Path, dict[str, float]]) -> None:
    shown = {name for panel in SECTIONS["Reasoning"] if panel.kind != "media" for name in panel.metrics}
    assert len(shown) > 15
    assert shown <= trained[1].keys()
    assert {"perf/tokens_per_second", "train/tokens_seen", "train/lr"} <= trained[1].keys()


def test_checkpoint_and_exported_folder_are_measured_alike(
    trained: tuple[Path, dict[str, float]], tmp_path: Path, student: Path
) -> None:
    folder, metrics = trained
    results = [
        evaluate(measuring(tmp_path / name, f"ckpt_path={folder / 'run' / path}"))
        for name, path in (("ckpt", "checkpoints/last.ckpt"), ("folder", "student"))
    ]
    assert results[0]["test/accuracy"] == results[1]["test/accuracy"] == metrics["test/accuracy"]
    assert results[0]["test/completion_tokens"] == pytest.approx(results[1]["test/completion_tokens"])
    # The checkpoint knows what it was tuned from; the folder has forgotten where on this machine that lies.
    assert results[0]["test/baseline/n"] == 4
    assert "test/baseline/n" not in results[1]


def test_rescoring_gives_the_same_numbers(trained: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    folder, metrics = trained
    again = evaluate(measuring(tmp_path, f"rollouts={folder / 'run'}"))
    assert again["test/rrp_rho"] == pytest.approx(metrics["test/rrp_rho"], nan_ok=True)
    assert again["test/accuracy"] == metrics["test/accuracy"]
    assert again["test/baseline/completion_tokens"] == metrics["test/baseline/completion_tokens"]


def test_two_processes_give_one_report(tmp_path: Path, student: Path) -> None:
    metrics = train(training(tmp_path, student, "trainer=ddp_cpu", "trainer.max_epochs=1", "logger=csv"))
    assert metrics["test/n"] == 4
    assert json.loads((tmp_path / "run/metrics.json").read_text())["model"]["n"] == 4
