"""How many units of a classifier detect a concept, while it is trained and in the end."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from introspect.callbacks.gathering import by_first
from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.engine import dissect
from introspect.dissection.measure import check, measure, numbers
from introspect.vision.backbones import full_precision

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

RULES = ("quantile", "iou_threshold", "presence")


class ConceptDetectors(Callback):
    """Dissects `module.student`: a part of the concept data every few epochs, all of it after the test.

    Logs `dissect/detectors/total`, `unique`, and one per category, beside the accuracy; after the test also those of
    the controls, with the files and the report of `dissect.py` in `folder`. The first of several devices does it, while
    the others wait, as long as it takes; all log the numbers.

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
        if is_time and not trainer.sanity_checking and self.watched is not None:
            pl_module.log_dict(by_first(partial(self._look, pl_module, self.watched)))

    def _look(self, module: Any, watched: ConceptDataset) -> dict[str, float]:
        rules = {name: self.options[name] for name in RULES if name in self.options}
        found = dissect(
            full_precision(module.student),
            [self.layer],
            watched,
            preprocessing=module.preprocess,
            batch_size=self.options.get("batch_size", 32),
            progress=False,
            **rules,
        )
        return numbers(found[self.layer])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Dissect, and write the report."""
        pl_module.log_dict(by_first(partial(self._measured, pl_module, trainer.loggers)))

    def _measured(self, module: Any, loggers: Iterable[Logger]) -> dict[str, float]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return measure(
            network=full_precision(module.student),
            layer=self.layer,
            concepts=self.concepts,
            folder=self.folder,
            preprocessing=module.preprocess,
            loggers=loggers,
            device=str(module.device),
            **self.options,
        )
