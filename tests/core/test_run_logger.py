"""An offline run, read back from the file that `wandb sync` would upload."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from introspect.core.run_logger import RunLogger, log_histograms
from introspect.tracking.artifacts import artifact, digest, kind_of, log_artifacts
from introspect.tracking.wandb import finish, run_folders, wandb_logger
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
    finish()
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    kept = Offline(folder)
    assert (kept.run.project, kept.run.display_name, kept.run.run_group, kept.run.job_type, kept.run.notes) == (
        "p",
        "n",
        "g",
        "train",
        "why",
    )
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


def test_traces_lead_to_a_student_and_the_student_to_its_evaluation(tmp_path: Path) -> None:
    training, evaluation = tmp_path / "training", tmp_path / "evaluation"
    write(training / "traces/traces.parquet", "traces")
    write(training / "student/config.json", "{}")
    write(training / "student/model.safetensors", "weights")
    write(training / "rollouts/model.parquet", "answers")
    write(training / "checkpoints/last.ckpt", "checkpoint")
    write(training / "checkpoints/resume.ckpt", "resume")
    log_artifacts([begin(training)], training, inputs=[training / "traces/traces.parquet", None, "hub/id"])
    finish()
    write(evaluation / "rollouts/model.parquet", "other answers")
    log_artifacts([begin(evaluation)], evaluation, inputs=[training / "student"])
    finish()
    first, second = (Offline(run_folders(folder / "x")[0]) for folder in (training, evaluation))
    made = {(a.type, a.use_after_commit) for a in first.of("artifact")}
    assert made == {("traces", True), ("student", False), ("rollouts", False), ("checkpoint", False)}
    student = next(a for a in first.of("artifact") if a.type == "student")
    used = next(a for a in second.of("artifact") if a.use_after_commit)
    # The same name and content: to the server it is the same artifact.
    assert (used.name, used.digest, used.type) == (student.name, student.digest, "student")
    assert [entry.path for entry in student.manifest.contents] == ["config.json", "model.safetensors"]
    assert [a.type for a in second.of("artifact") if not a.use_after_commit] == ["rollouts"]


def test_what_is_large_is_referred_to_and_not_uploaded(tmp_path: Path) -> None:
    place = write(tmp_path / "student/model.safetensors", "x" * 100).parent
    [entry] = artifact(place, "student", 1).manifest.entries.values()
    assert entry.ref is None
    [entry] = artifact(place, "student", -1).manifest.entries.values()
    assert entry.ref == (place / "model.safetensors").resolve().as_uri()
    assert entry.digest


def test_no_artifacts_where_none_are_wanted(tmp_path: Path) -> None:
    write(tmp_path / "student/config.json", "{}")
    log_artifacts([begin(tmp_path)], tmp_path, limit=0)
    log_artifacts([], tmp_path)
    assert not (tmp_path / "wandb").exists()


def test_a_run_that_is_not_kept_has_no_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    write(tmp_path / "student/config.json", "{}")
    write(tmp_path / "traces/traces.parquet", "traces")
    logger = wandb_logger(project="p", save_dir=tmp_path, axes={"val/*": "epoch"}, summaries={"a": "max"})
    logger.log_hyperparams({"a": {"b": 1}})
    log_histograms([logger], {"h": [1.0]})
    log_artifacts([logger], tmp_path)
    finish()
    assert not list(tmp_path.glob("wandb/*run-*"))


def test_names_follow_content(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a/x", "1"), write(tmp_path / "b/x", "1")
    assert digest(one.parent, [one]) == digest(other.parent, [other])
    assert digest(tmp_path, [one]) != digest(tmp_path, [other])


@pytest.mark.parametrize(
    ("path", "kind"),
    [("run/checkpoints/last.ckpt", "checkpoint"), ("run/traces/traces.parquet", "traces")],
)
def test_kinds(path: str, kind: str) -> None:
    assert kind_of(Path(path)) == kind


def test_a_checkpoint_goes_on_in_its_own_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = begin(tmp_path / "run")
    name = first.experiment.id
    finish()
    checkpoint = write(tmp_path / "run/checkpoints/last.ckpt", "")
    second = begin(tmp_path / "next", continues=checkpoint)
    assert second.experiment.id == name
    second.log_metrics({"x": 1.0}, step=7)
    finish()
    kept = Offline(run_folders(tmp_path / "next/x")[0])
    assert (kept.run.run_id, kept.history[0]["trainer/global_step"]) == (name, 7)
    other = begin(tmp_path / "third", continues=tmp_path / "hub/id")
    assert other.experiment.id != name
    finish()


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
    finish()
    assert "W&B can not be reached (no route to host): this run is kept offline" in caplog.text
    assert Offline(run_folders(tmp_path / "x")[0]).history[0]["x"] == 1.0


def test_another_error_is_no_lost_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def broken(**_: Any) -> Any:
        raise wandb.errors.UsageError("no such setting")

    monkeypatch.setattr(wandb, "init", broken)
    with pytest.raises(wandb.errors.UsageError, match="no such setting"):
        begin(tmp_path).log_metrics({"x": 1.0})
