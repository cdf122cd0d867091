"""How classifiers are trained: SGD for all, and a separate run for a teacher or a first stage."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from introspect.distillation.datamodule import ImageDataModule

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Training:
    """How a teacher, or a first stage on top of it, is trained if there is none yet: with SGD, as a `Distillation` is.

    Attributes:
        epochs: passes over the training images.
        lr: learning rate of the first epochs.
        momentum: of SGD.
        weight_decay: of SGD.
        milestones: fractions of the training after which the learning rate falls to a tenth.
        seed: of the weights and of the order of training; it does not depend on the student's seed, so that students
            of all seeds have the same teacher.
        label_smoothing: of a teacher's labels, see `LabelSmoothing`; 0 trains it with cross-entropy.
    """

    epochs: int = 30
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[float, ...] = (0.3, 0.6, 0.9)
    seed: int = 0
    label_smoothing: float = 0.0


def sgd(
    parameters: Iterable[nn.Parameter],
    total: int,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    milestones: Sequence[float],
    gamma: float = 0.1,
    warmup_steps: int = 0,
) -> dict[str, Any]:
    """Return SGD with momentum and its schedule, in the form of Lightning's `configure_optimizers`.

    Args:
        parameters: what is trained.
        total: optimizer steps of the training.
        lr, momentum, weight_decay, milestones, gamma, warmup_steps: see `Distillation`.
    """
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return float((step + 1) / warmup_steps)
        passed = sum(step >= round(fraction * total) for fraction in milestones)
        return float(gamma**passed)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}


def train_separately(
    module: LightningModule, data: ImageDataModule, training: Training, device: str, folder: Path
) -> None:
    """Train a module on an image set in a run of its own, from where an interrupted attempt stopped.

    Args:
        module: what is trained.
        data: an `ImageDataModule`; it is left as it is.
        training: epochs, and the seed of the order of training.
        device: the kind of device, as Lightning's `accelerator`.
        folder: holds a checkpoint of the last epoch; it is removed in the end.
    """
    from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

    trainer = Trainer(
        max_epochs=training.epochs,
        accelerator=device,
        devices=1,
        logger=False,
        limit_val_batches=None if is_overridden("validation_step", module) else 0,
        enable_model_summary=False,
        callbacks=[RichProgressBar(), ModelCheckpoint(folder, save_last=True)],
    )
    stopped = folder / "last.ckpt"
    if stopped.is_file():
        log.info("the training resumes from %s", stopped)
    resumed = stopped if stopped.is_file() else None
    trainer.fit(module, data.for_another_run(training.seed), ckpt_path=resumed, weights_only=True)
    shutil.rmtree(folder, ignore_errors=True)


def is_trial(trainer: Trainer) -> bool:
    """Whether a run trains on a part of the data only, as `debug=…` does: it makes no teacher."""
    limit = trainer.limit_train_batches
    whole = isinstance(limit, float) and limit == 1.0
    return bool(trainer.fast_dev_run or trainer.overfit_batches) or not whole  # type: ignore[attr-defined]
