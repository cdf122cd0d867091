"""How many units of a classifier detect a concept, while it is trained and in the end."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from introspect.callbacks.classifier_measure import student_network
from introspect.callbacks.gathering import by_first
from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.measures.detectors import Detectors, detector_metrics


class ConceptDetectors(Callback):
    """Dissects `module.student`: a part of the concept data every few epochs, all of it after the test.

    Logs `dissect/detectors/total`, `unique`, and one per category, next to the accuracy; after the test also those of
    the controls, with the files and the report of `dissect.py` in `folder`. The first of several devices does it, while
    the others wait, as long as it takes; all log the numbers.

    Args:
        layer: name of the student's module that is dissected.
        concepts: the images and what is in them.
        watched: the smaller set of them for the dissections during training.
        every_n_epochs: epochs between two dissections; 0 dissects only after the test.
        folder: where the files of the final dissection go.
        options: of `dissection.measures.detectors.Detectors`, such as `iou_threshold` and `controls`.
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
        """Check the layer and the options before anything is trained.

        Raises:
            InputError: the student has no such layer, or an option is impossible.
        """
        self._measure(pl_module).check()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Dissect with the smaller set, every few epochs."""
        is_time = self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if is_time and not trainer.sanity_checking and self.watched is not None:
            pl_module.log_dict(by_first(partial(self._watch, pl_module, self.watched)))

    def _watch(self, module: Any, watched: ConceptDataset) -> dict[str, float]:
        return detector_metrics(self._measure(module).dissect(watched, progress=False)[self.layer])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Dissect, and write the report."""
        pl_module.log_dict(by_first(partial(self._measure(pl_module), trainer.loggers)))

    def _measure(self, module: Any) -> Detectors:
        return Detectors(
            network=student_network(module),
            layer=self.layer,
            concepts=self.concepts,
            folder=self.folder,
            device=str(module.device),
            **self.options,
        )
