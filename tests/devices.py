"""Trainings that one process makes, and two make together: `python -m tests.devices FOLDER`, once for each of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from torch import nn

STEPS = 50
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def together(folder: Path, rank: int) -> None:
    """All trainings, in one of two processes. The first writes what came of them."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}  # as Lightning's launcher does
    found = {name: make(folder / name, 2) for name, make in TRAININGS.items()}
    if rank == 0:
        torch.save(found, folder / "two.pt")


def run(folder: Path, devices: int, module: LightningModule, data: LightningDataModule, **options: Any) -> Any:
    """Train 50 steps and test: the weights, and every metric."""
    from lightning.pytorch.strategies import DDPStrategy

    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=DDPStrategy(process_group_backend="gloo") if devices > 1 else "auto",
        max_steps=STEPS,
        default_root_dir=folder,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        **{**QUIET, **options},
    )
    trainer.fit(module, data)
    metrics = dict(trainer.callback_metrics)
    trainer.test(module, data, verbose=False)
    metrics |= trainer.callback_metrics
    weights = {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    return {"weights": weights, "metrics": {name: float(value) for name, value in metrics.items()}}


class Doubles(Callback):
    """All in float64, the teacher and what the objective keeps too."""

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Convert what has been made by now."""
        pl_module.double()
        for teacher in pl_module._teacher:
            teacher.double()


def with_group_norm(network: nn.Module) -> None:
    """Replace batch norm, whose statistics torch does not share among CPU processes."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, nn.GroupNorm(1, child.num_features))
        with_group_norm(child)


def classify(folder: Path, devices: int) -> Any:
    """A student of contrastive distillation, with group norm and shifted images; 23 and 25 held-out images."""
    from introspect.callbacks.class_similarity import ClassSimilarity
    from introspect.distillation.datamodule import ImageDataModule
    from introspect.distillation.module import Distillation, make_teacher
    from introspect.distillation.objectives.contrastive import ContrastiveDistillation
    from introspect.distillation.teacher import Teacher
    from introspect.distillation.training import Training
    from introspect.vision.backbones import Backbone
    from tests.distillation.made import Colours

    def data(size: int) -> ImageDataModule:
        return ImageDataModule(images=Colours(sizes=(96, 23, 25), contrast=40), batch_size=size, shift=2)

    seed_everything(1, verbose=False)
    teacher = Teacher(Backbone("cifar_resnet8", 3, width=4), folder.parent / "teachers", training=Training(epochs=1))
    given = replace(teacher, ckpt_path=make_teacher(teacher, data(12), device="cpu"))  # whatever the size of batches
    seed_everything(1, verbose=False)
    objective = ContrastiveDistillation(layer="layer3", size=8, negatives=16)
    module = Distillation(student=Backbone("cifar_resnet8", 3, width=4), objective=objective, teacher=given, lr=0.03)
    with_group_norm(module.student)
    # In float64: norms and ReLU blow up what float32 rounds, to 7e-5 of a weight after 50 steps.
    prepare = module.preprocess
    module.preprocess = lambda images: prepare(images).double()  # type: ignore[assignment,method-assign]
    similarity = ClassSimilarity(images=Colours(), folder=folder)
    options: dict[str, Any] = {"callbacks": [Doubles(), similarity], "precision": "64-true"}
    return run(folder, devices, module, data(12 // devices), **options)


def tune(folder: Path, devices: int) -> Any:
    """A student on 9 traces in steps of 4, the last of which leaves one process none; 3 held out, 5 questions."""
    from introspect.callbacks.answer_accuracy import AnswerAccuracy
    from introspect.callbacks.rollout_report import RolloutReport
    from introspect.callbacks.token_usage import TokenUsage
    from introspect.chat.protocol import Sampling
    from introspect.evaluation.generation import EvaluationSettings
    from introspect.tuning.student import ReasoningStudent
    from tests.tuning.test_datamodule import build

    short = Sampling(max_tokens=6)
    student = ReasoningStudent(
        model=str(folder.parent / "tiny"), lr=1e-3, eps=1e-4, testing=EvaluationSettings(sampling=short, baseline=None)
    )
    callbacks = [
        TokenUsage(),
        AnswerAccuracy(questions=5, every_n_epochs=16, sampling=short),
        RolloutReport(folder=folder),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    seed_everything(1, verbose=False)
    data = build(folder, batch_size=4 // devices, test_examples=5)
    return run(folder, devices, student, data, callbacks=callbacks)


class Meeting(Callback):
    """What processes tell each other, and how the failure of the first one reaches the other."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what this process got to know."""
        from introspect.callbacks.gathering import by_first, gather

        def fails() -> int:
            raise ValueError("no disk")

        told = by_first(lambda: {"rank": trainer.global_rank})
        gathered = gather([f"{trainer.global_rank}/{n}" for n in range(1 + trainer.global_rank)])
        try:
            by_first(fails)
        except (ValueError, RuntimeError) as error:
            self.heard = f"{type(error).__name__}: {error}"
        self.found = gather([(told, gathered, self.heard)])


def meet(folder: Path, devices: int) -> Any:
    """See `Meeting`."""
    from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
    from lightning.pytorch.strategies import DDPStrategy

    meeting = Meeting()
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=DDPStrategy(process_group_backend="gloo") if devices > 1 else "auto",
        fast_dev_run=True,
        callbacks=[meeting],
        **QUIET,
    )
    trainer.fit(BoringModel(), BoringDataModule())
    return meeting.found


TRAININGS: dict[str, Callable[[Path, int], Any]] = {"classify": classify, "tune": tune, "meet": meet}

if __name__ == "__main__":
    together(Path(sys.argv[1]), int(sys.argv[2]))
