"""Saving at signals, in the middle of steps, in other folders, and under SLURM."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch.utils.data import DataLoader

from introspect import app
from introspect.callbacks.resume_point import BestCheckpoint, ResumePoint, left_by_requeued
from introspect.core.resuming import place
from introspect.distillation.datamodule import ImageLoader

BATCHES = 8


class Tells(Callback):
    """Sends a signal to the process at a batch, or when the last validation is over."""

    def __init__(self, batch: int | None = None, name: str = "SIGTERM") -> None:
        self.batch, self.name = batch, name

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *others: Any) -> None:
        if others[-1] == self.batch:
            os.kill(os.getpid(), getattr(signal, self.name))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.batch is None:
            os.kill(os.getpid(), getattr(signal, self.name))


class Graded(BoringModel):
    """Logs a metric that is best in the first epoch."""

    def on_validation_epoch_end(self) -> None:
        self.log("val/accuracy", [0.9, 0.5, 0.6, 0.7][self.current_epoch])


def batches(trainer: Trainer) -> ImageLoader:
    rows = torch.randn(BATCHES, 32, generator=torch.Generator().manual_seed(0))
    return ImageLoader(partial(DataLoader, rows), BATCHES, 1, place=lambda: place(trainer))


def point(folder: Path, **options: Any) -> ResumePoint:
    return ResumePoint(dirpath=folder, filename="resume", enable_version_counter=False, **options)


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    settings: dict[str, Any] = {"max_epochs": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0, **options}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **settings, **quiet)


def fit(made: Trainer, ckpt_path: str | None = None) -> BoringModel:
    torch.manual_seed(0)
    model = Graded()
    app.fit(made, model, batches(made), ckpt_path)  # type: ignore[arg-type]
    return model


@pytest.fixture(autouse=True)
def plain_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data are a loader: `fit` hands on what it gets."""
    whole = Trainer.fit

    def given(self: Trainer, module: Any, data: Any, **options: Any) -> None:
        whole(self, module, data, DataLoader(torch.ones(1, 32)), **options)

    monkeypatch.setattr(Trainer, "fit", given)


def state(folder: Path) -> Any:
    return torch.load(folder / "resume.ckpt", weights_only=True)


def done(folder: Path) -> int:
    return int(state(folder)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["completed"])


@pytest.mark.parametrize(("batch", "stopped"), [(0, 4), (2, 4), (3, 4), (5, 8), (None, 8)])
def test_a_signal_waits_for_the_end_of_the_step(tmp_path: Path, batch: int | None, stopped: int) -> None:
    made = trainer(tmp_path, point(tmp_path), Tells(batch), accumulate_grad_batches=4)
    with pytest.raises(SystemExit) as exit:
        fit(made)
    assert exit.value.code == 143
    assert done(tmp_path) == stopped


def test_what_is_saved_by_the_clock_waits_for_the_end_of_the_step(tmp_path: Path) -> None:
    always = point(tmp_path, train_time_interval=timedelta(microseconds=1))
    made = trainer(tmp_path, always, accumulate_grad_batches=4, limit_train_batches=6, limit_val_batches=0)
    saved = []

    def save(trainer: Trainer, path: str) -> None:
        saved.append(trainer.fit_loop.epoch_loop.batch_progress.current.processed)

    always._save_checkpoint = save  # type: ignore[method-assign]
    fit(made)
    assert set(saved) == {4, 6}


def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = fit(trainer(tmp_path, accumulate_grad_batches=4, max_epochs=2, enable_checkpointing=False))
    with pytest.raises(SystemExit):
        fit(trainer(tmp_path, point(tmp_path), Tells(1), accumulate_grad_batches=4, max_epochs=2))
    resumed = fit(
        trainer(tmp_path, enable_checkpointing=False, accumulate_grad_batches=4, max_epochs=2),
        str(tmp_path / "resume.ckpt"),
    )
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict())


def test_the_best_epoch_is_known_in_another_folder(tmp_path: Path) -> None:
    def best(name: str) -> BestCheckpoint:
        return BestCheckpoint(dirpath=tmp_path / name, monitor="val/accuracy", mode="max", filename="{epoch}")

    first = best("first")
    with pytest.raises(SystemExit):
        fit(trainer(tmp_path, first, point(tmp_path), Tells(), max_epochs=4))
    fit(trainer(tmp_path, second := best("second"), max_epochs=4), str(tmp_path / "resume.ckpt"))
    assert second.best_model_path == first.best_model_path == str(tmp_path / "first" / "epoch=0.ckpt")
    assert Path(second.best_model_path).is_file()


@pytest.mark.parametrize(("name", "queued"), [("SIGUSR1", "requeue 7_3\n"), ("SIGTERM", "")])
def test_slurm_queues_the_job_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, queued: str) -> None:
    asked = tmp_path / "asked"
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for key, value in {"JOB_ID": "9", "ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "3", "NTASKS": "1"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    for key in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{key}", "0")
    made = trainer(tmp_path, point(tmp_path), Tells(2, name), strategy="ddp", devices=1, plugins=[SLURMEnvironment()])
    with pytest.raises(SystemExit) as exit:
        fit(made)
    assert exit.value.code == 143
    assert done(tmp_path) == 3
    assert (asked.read_text() if asked.exists() else "") == queued
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "resume.ckpt").rename(tmp_path / "checkpoints" / "resume.ckpt")
    assert left_by_requeued(str(tmp_path)) == str(tmp_path / "checkpoints" / "resume.ckpt")


def test_a_job_that_is_queued_again_in_another_folder_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert left_by_requeued(str(tmp_path)) is None
    assert not caplog.records
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert left_by_requeued(str(tmp_path)) is None
    assert "hydra.run.dir=logs/train/runs/$SLURM_JOB_ID" in caplog.text


def test_what_was_saved_by_the_clock_leads_to_the_same_end(tmp_path: Path) -> None:
    whole = fit(trainer(tmp_path, accumulate_grad_batches=4, enable_checkpointing=False))
    always = point(tmp_path, train_time_interval=timedelta(microseconds=1))
    kept = always._save_checkpoint

    def first(made: Trainer, path: str) -> None:
        if not Path(path).exists():
            kept(made, path)

    always._save_checkpoint = first  # type: ignore[method-assign]
    fit(trainer(tmp_path, always, accumulate_grad_batches=4))
    again = trainer(tmp_path, accumulate_grad_batches=4, enable_checkpointing=False)
    resumed = fit(again, str(tmp_path / "resume.ckpt"))
    assert again.global_step == BATCHES // 4
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict())
