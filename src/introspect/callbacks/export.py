"""Export the tuned student as a Hugging Face folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from introspect.core.distributed import check_whole
from introspect.core.errors import InputError
from introspect.tuning.export import ModelCard
from introspect.tuning.student import ReasoningStudent, load_student

log = logging.getLogger(__name__)

Weights = Literal["last", "best"]


class ExportStudent(Callback):
    """Exports the student to `<folder>/student` when training has ended.

    Args:
        folder: usually the folder of the run.
        weights: `last` exports the weights with which training ended, `best` those of the best checkpoint by the
            metric that the checkpoint callback monitors.
        title: heading of the model card.
        recipe: name of the recipe, for the model card.
        data: name of the benchmark, for the model card.
    """

    def __init__(
        self,
        *,
        folder: str | Path,
        weights: Weights = "last",
        title: str = "Reasoning student",
        recipe: str | None = None,
        data: str | None = None,
    ) -> None:
        if weights not in ("last", "best"):
            raise InputError(f"export: weights is {weights!r}, expected last or best")
        self.folder = Path(folder) / "student"
        self.weights = weights
        self.card = ModelCard(title=title, recipe=recipe, data=data)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse before the training what cannot be exported after it.

        Raises:
            InputError: the best weights are wanted and no checkpoint callback monitors a metric, or weights are sharded
                over devices.
        """
        check_whole(trainer)
        if stage == "fit" and self.weights == "best" and _monitored(trainer) is None:
            raise InputError("export: weights is best, but no checkpoint callback monitors a metric")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export, in one process; a `fast_dev_run` exports nothing.

        Raises:
            InputError: the best weights are wanted and no checkpoint was saved.
        """
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        student = cast(ReasoningStudent, pl_module)
        if self.weights == "best":
            checkpoint = _monitored(trainer)
            if checkpoint is None or not checkpoint.best_model_path:
                raise InputError("export: weights is best, but training ended before a checkpoint was saved")
            student = load_student(checkpoint.best_model_path)
        student.export(self.folder, self.card)
        log.info("exported the tuned student to %s", self.folder)


def _monitored(trainer: Trainer) -> ModelCheckpoint | None:
    checkpoints = (c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
    return next((checkpoint for checkpoint in checkpoints if checkpoint.monitor), None)
