"""Artifacts of runs, read back from what an offline run keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from introspect.core.run_logger import RunLogger, log_histograms
from introspect.tracking.artifacts import artifact, digest, kind_of, log_artifacts
from introspect.tracking.loggers import finish_wandb, run_folders, wandb_logger
from tests.tracking.reading import Offline


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def logger_in(folder: Path) -> RunLogger:
    return wandb_logger(project="p", save_dir=folder, offline=True)


def test_lineage_from_traces_to_student_to_evaluation(tmp_path: Path) -> None:
    training, evaluation = tmp_path / "training", tmp_path / "evaluation"
    write(training / "traces/traces.parquet", "traces")
    write(training / "student/config.json", "{}")
    write(training / "student/model.safetensors", "weights")
    write(training / "rollouts/model.parquet", "answers")
    write(training / "checkpoints/last.ckpt", "checkpoint")
    write(training / "checkpoints/resume.ckpt", "resume")
    log_artifacts([logger_in(training)], training, inputs=[training / "traces/traces.parquet", None, "hub/id"])
    finish_wandb()
    write(evaluation / "rollouts/model.parquet", "other answers")
    log_artifacts([logger_in(evaluation)], evaluation, inputs=[training / "student"])
    finish_wandb()
    first, second = (Offline(run_folders(folder / "x")[0]) for folder in (training, evaluation))
    made = {(a.type, a.use_after_commit) for a in first.of("artifact")}
    assert made == {("traces", True), ("student", False), ("rollouts", False), ("checkpoint", False)}
    student = next(a for a in first.of("artifact") if a.type == "student")
    used = next(a for a in second.of("artifact") if a.use_after_commit)
    # The same name and content: to the server it is the same artifact.
    assert (used.name, used.digest, used.type) == (student.name, student.digest, "student")
    assert [entry.path for entry in student.manifest.contents] == ["config.json", "model.safetensors"]
    assert [a.type for a in second.of("artifact") if not a.use_after_commit] == ["rollouts"]


def test_large_files_are_references_and_not_uploaded(tmp_path: Path) -> None:
    place = write(tmp_path / "student/model.safetensors", "x" * 100).parent
    [entry] = artifact(place, "student", 1).manifest.entries.values()
    assert entry.ref is None
    [entry] = artifact(place, "student", -1).manifest.entries.values()
    assert entry.ref == (place / "model.safetensors").resolve().as_uri()
    assert entry.digest


def test_limit_0_and_a_disabled_run_log_no_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "student/config.json", "{}")
    write(tmp_path / "traces/traces.parquet", "traces")
    log_artifacts([logger_in(tmp_path)], tmp_path, limit=0)
    log_artifacts([], tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = wandb_logger(project="p", save_dir=tmp_path, axes={"val/*": "epoch"}, summaries={"a": "max"})
    logger.log_hyperparams({"a": {"b": 1}})
    log_histograms([logger], {"h": [1.0]})
    log_artifacts([logger], tmp_path)
    finish_wandb()
    assert not list(tmp_path.glob("wandb/*run-*"))


def test_equal_content_has_an_equal_name(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a/x", "1"), write(tmp_path / "b/x", "1")
    assert digest(one.parent, [one]) == digest(other.parent, [other])
    assert digest(tmp_path, [one]) != digest(tmp_path, [other])


def test_kinds() -> None:
    assert kind_of(Path("run/checkpoints/last.ckpt")) == "checkpoint"
    assert kind_of(Path("run/traces/traces.parquet")) == "traces"
