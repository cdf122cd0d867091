"""Keep the weights of a teacher's training where its students look for them."""

from __future__ import annotations

import inspect
import logging
from dataclasses import asdict
from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer

from introspect.distillation.module import Distillation
from introspect.distillation.objectives import CrossEntropy, LabelSmoothing
from introspect.distillation.teacher import Teacher
from introspect.distillation.training import is_trial

log = logging.getLogger(__name__)


class KeepTeacher(Callback):
    """Writes the trained network to the file of a teacher, if the run has that teacher's settings.

    Args:
        teacher: its network and training.
    """

    def __init__(self, *, teacher: Teacher) -> None:
        self.teacher = teacher

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn before the training if it makes another teacher than the one that students look for."""
        if trainer.is_global_zero and (found := differences(self.teacher, trainer, cast(Distillation, pl_module))):
            log.warning("this teacher will not be kept for students: %s", "; ".join(found))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it."""
        module = cast(Distillation, pl_module)
        if not trainer.is_global_zero or differences(self.teacher, trainer, module):
            return
        if trainer.current_epoch != self.teacher.training.epochs:
            log.warning(
                "this teacher is not kept for students: its training stopped in epoch %d", trainer.current_epoch
            )
            return
        log.info("the teacher is in %s", self.teacher.save(module.student, module.identity))


def differences(teacher: Teacher, trainer: Trainer, module: Distillation) -> list[str]:
    """Return the differences of a training from that of a teacher, as `option is this, expected that`."""
    how, ran = teacher.training, module.hparams
    usual = inspect.signature(Distillation).parameters
    pairs = {
        "model.student": (ran["student"], asdict(teacher.backbone)),
        "model.objective": (ran["objective"], (LabelSmoothing if how.label_smoothing else CrossEntropy).__name__),
        "model.objective.smoothing": (module.objective.smoothing, how.label_smoothing),
        "model.lr": (ran["lr"], how.lr),
        "model.momentum": (ran["momentum"], how.momentum),
        "model.weight_decay": (ran["weight_decay"], how.weight_decay),
        "model.milestones": (ran["milestones"], list(how.milestones)),
        "model.gamma": (ran["gamma"], usual["gamma"].default),
        "model.warmup_steps": (ran["warmup_steps"], usual["warmup_steps"].default),
        "seed": (module.datamodule.seed, how.seed),
        "trainer.max_epochs": (trainer.max_epochs, how.epochs),
        "trainer.accumulate_grad_batches": (trainer.accumulate_grad_batches, 1),
        "processes": (trainer.world_size, 1),
        "a trial run": (is_trial(trainer), False),
    }
    return [f"{name} is {own}, expected {expected}" for name, (own, expected) in pairs.items() if own != expected]
