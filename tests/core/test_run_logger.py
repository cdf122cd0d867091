"""An offline run, read back from the file that `wandb sync` would upload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from introspect.core.run_logger import RunLogger, log_histograms
from introspect.tracking.loggers import finish_wandb, run_folders, wandb_logger
from tests.tracking.reading import Offline


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def begin(folder: Path, **settings: Any) -> RunLogger:
    return wandb_logger(project="p", save_dir=folder, offline=True, **settings)


def test_a_run_holds_all_that_was_logged(tmp_path: Path) -> None:
    logger = begin(
        tmp_path,
        name="n",
        group="g",
        job_type="train",
        tags=["a", "b"],
        notes="why",
        axes={"val/*": "epoch"},
        summaries={"val/accuracy": "max,last", "train/loss": "min"},
    )
    logger.log_hyperparams({"model": {"lr": 0.1, "betas": [0.9, 0.99]}, "seed": 1})
    for step, (loss, accuracy) in enumerate([(3.0, 0.25), (1.0, 0.75), (2.0, 0.5)]):
        logger.log_metrics({"train/loss": loss, "val/accuracy": accuracy, "epoch": step}, step=10 * step)
    log_histograms([logger], {"tokens": [1.0, 2.0, 2.0], "none": []})
    logger.log_table("table", columns=["a"], data=[["<b>"], ["c"]])
    finish_wandb()
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    kept = Offline(folder)
    run = kept.run
    assert [run.project, run.display_name, run.run_group, run.job_type, run.notes] == ["p", "n", "g", "train", "why"]
    assert list(kept.run.tags) == ["a", "b"]
    assert kept.config["model/lr"] == 0.1
    assert kept.config["model/betas"] == [0.9, 0.99]
    curve = [(row["trainer/global_step"], row["epoch"], row["val/accuracy"]) for row in kept.history[:3]]
    assert curve == [(0, 0, 0.25), (10, 1, 0.75), (20, 2, 0.5)]
    assert kept.summary["val/accuracy"] == {"max": 0.75, "last": 0.5}
    assert kept.summary["train/loss"] == {"min": 1.0}
    axes = {metric.name or metric.glob_name: metric.step_metric for metric in kept.of("metric")}
    assert axes["val/*"] == axes["val/accuracy"] == "epoch"
    assert axes["*"] == axes["train/loss"] == "trainer/global_step"
    histogram = {key: value for row in kept.history for key, value in row.items() if key.startswith("tokens")}
    assert sum(histogram["tokens/values"]) == 3
    assert [metric for row in kept.history for metric in row if metric.startswith("none")] == []
    [table] = folder.glob("files/media/table/table_*.json")
    assert '["<b>"]' in table.read_text().replace(" ", "")


def test_a_server_that_can_not_be_reached_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    init = wandb.init

    def unreachable(**settings: Any) -> Any:
        if settings["mode"] == "online":
            raise wandb.errors.CommError("no route\nto host")
        return init(**settings)

    monkeypatch.setattr(wandb, "init", unreachable)
    monkeypatch.delenv("WANDB_MODE")
    logger = wandb_logger(project="p", save_dir=tmp_path, offline=False, log_model=True)
    logger.log_metrics({"x": torch.tensor(1.0).item()}, step=0)
    finish_wandb()
    assert "W&B cannot be reached (no route to host): this run is stored offline" in caplog.text
    assert Offline(run_folders(tmp_path / "x")[0]).history[0]["x"] == 1.0


def test_another_error_is_no_lost_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def broken(**_: Any) -> Any:
        raise wandb.errors.UsageError("no such setting")

    monkeypatch.setattr(wandb, "init", broken)
    with pytest.raises(wandb.errors.UsageError, match="no such setting"):
        begin(tmp_path).log_metrics({"x": 1.0})
