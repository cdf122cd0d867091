"""How many units of a classifier detect a concept, while it is trained and in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.engine import dissect
from introspect.dissection.measure import check, measure, numbers

RULES = ("quantile", "iou_threshold", "presence")


class ConceptDetectors(Callback):
    """Dissects `module.student`: a part of the concept data every few epochs, all of it after the test.

    Logs `dissect/detectors/total`, `unique`, and one per category, beside the accuracy; after the test also those of
    the controls, with the files and the report of `dissect.py` in `folder`. The first of several devices does it.

    Args:
        layer: name of the student's module that is dissected.
        concepts: the images and what is in them.
        watched: the smaller set of them for the looks in between.
        every_n_epochs: epochs between two looks; 0 looks only after the test.
        folder: where the files of the final dissection go.
        options: of `dissection.measure.measure`, such as `iou_threshold` and `controls`.
    """

    def __init__(
        self,
        *,
        layer: str,
        concepts: ConceptDataset,
        folder: str | Path,
        watched: ConceptDataset | None = None,
        every_n_epochs: int = 0,
        **options: Any,
    ) -> None:
        self.layer, self.concepts, self.watched = layer, concepts, watched
        self.every_n_epochs, self.folder, self.options = every_n_epochs, Path(folder), options

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the layer and the rules before anything is trained.

        Raises:
            InputError: the student has no such layer, or a rule can not be.
        """
        check(cast(Any, pl_module).student, self.layer, **self.options)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a look, if it is time."""
        is_time = self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if not is_time or trainer.sanity_checking or self.watched is None or not trainer.is_global_zero:
            return
        module = cast(Any, pl_module)
        rules = {name: self.options[name] for name in RULES if name in self.options}
        found = dissect(
            module.student,
            [self.layer],
            self.watched,
            preprocessing=module.preprocess,
            batch_size=self.options.get("batch_size", 32),
            progress=False,
            **rules,
        )
        pl_module.log_dict(numbers(found[self.layer]), rank_zero_only=True)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Dissect, and write the report."""
        if not trainer.is_global_zero:
            return
        module = cast(Any, pl_module)
        self.folder.mkdir(parents=True, exist_ok=True)
        metrics = measure(
            network=module.student,
            layer=self.layer,
            concepts=self.concepts,
            folder=self.folder,
            preprocessing=module.preprocess,
            loggers=trainer.loggers,
            device=str(pl_module.device),
            **self.options,
        )
        pl_module.log_dict(metrics, rank_zero_only=True)
