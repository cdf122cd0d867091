"""The end of a teacher's training: its weights where its students look for them."""

from __future__ import annotations

import logging
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from introspect.distillation.teacher import Teacher

log = logging.getLogger(__name__)


class KeepTeacher(Callback):
    """Writes the trained network to the file of a teacher with these settings.

    Args:
        teacher: whose network and training were the run's.
    """

    def __init__(self, *, teacher: Teacher) -> None:
        self.teacher = teacher

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it."""
        if trainer.is_global_zero:
            module = cast(Any, pl_module)
            log.info("the teacher is in %s", self.teacher.keep(module.student, module.identity))
