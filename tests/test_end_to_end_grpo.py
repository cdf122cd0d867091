"""train.py experiment=grpo, whole, with a student of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from introspect.app import train
from introspect.evaluation.students import open_model
from introspect.tuning.student import load_student
from tests.composing import compose_config
from tests.tuning.tiny import tiny_folder

pytestmark = pytest.mark.slow


def test_grpo_leaves_everything_behind_and_resumes(tmp_path: Path) -> None:
    student = tiny_folder(tmp_path / "tiny", context=2048, tags=True)
    settings = [
        "experiment=grpo",
        f"model.model={student}",
        "model.grpo.group_size=2",
        "data.sizes.train=4",
        "data.sizes.validation=2",
        "data.sizes.test=2",
        "datamodule.questions=2",
        "datamodule.batch_size=2",
        "datamodule.max_length=2048",
        "drafting.max_tokens=6",
        "sampling.max_tokens=6",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "callbacks.resume_point.every_n_train_steps=1",
        "judge=none",
        "logger=csv",
        "extras.print_config=false",
    ]
    metrics = train(compose_config("train", settings, tmp_path))
    run = tmp_path / "run"

    assert {"train/reward", "train/kl", "train/clip_fraction", "train/completion_tokens"} <= metrics.keys()
    assert {"train/degeneration_rate", "train/tokens_seen", "val/accuracy", "test/accuracy"} <= metrics.keys()
    content = json.loads((run / "metrics.json").read_text())
    assert content["baseline"]["n"] == content["model"]["n"] == 2
    for name in ("checkpoints/last.ckpt", "checkpoints/resume.ckpt", "student/config.json"):
        assert (run / name).is_file(), name
    assert "GRPO" in (run / "student/README.md").read_text()
    # What was tuned is opened like any student, and the checkpoint knows what it was tuned from.
    assert open_model(str(run / "checkpoints/last.ckpt"), load_checkpoint=load_student).base == str(student)

    longer = [*settings, "trainer.max_epochs=2", "test=false", f"ckpt_path={run / 'checkpoints/resume.ckpt'}"]
    again = train(compose_config("train", longer, tmp_path / "again"))
    assert again["train/tokens_seen"] > metrics["train/tokens_seen"]
