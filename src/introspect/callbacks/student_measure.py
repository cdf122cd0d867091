"""Another measure of how interpretable a classifier is, after its test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from introspect.callbacks.gathering import by_first
from introspect.core.errors import InputError
from introspect.dissection.measures.images import has_truths
from introspect.dissection.measures.output import library
from introspect.vision.backbones import full_precision


class StudentMeasure(Callback):
    """Measures `module.student` on the images of the data module, as `dissect.py measure=…` does, and logs the numbers.

    The first of several devices does it, while the others wait, in float32 whatever the student was trained in.

    Args:
        name: of the measure, as in `dissect.py measure=…`.
        measure: takes network, data, folder, preprocessing, loggers and device, and returns the numbers by name.
        folder: where its files go.
        libraries: what it imports, so that a missing one is named before anything is trained.
        truths: whether it wants to know what matters in an image.
    """

    def __init__(
        self,
        *,
        name: str,
        measure: Callable[..., dict[str, float]],
        folder: str | Path,
        libraries: Sequence[str] = (),
        truths: bool = False,
    ) -> None:
        self.name, self.measure, self.folder = name, measure, Path(folder)
        self.libraries, self.truths = tuple(libraries), truths

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse before the training what could not be measured after it.

        Raises:
            InputError: a library is not installed, or nothing says what matters in the images.
        """
        for module in self.libraries:
            library(module, f"callbacks.{self.name} wants {module}")
        data = _images(trainer)
        if self.truths and not has_truths(data):
            raise InputError(
                f"callbacks.{self.name}: nothing says which pixels of data={data.name} matter; ~callbacks.{self.name} "
                "leaves this measure out"
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, and write the files."""
        pl_module.log_dict(by_first(partial(self._measured, trainer, pl_module)))

    def _measured(self, trainer: Trainer, module: Any) -> dict[str, float]:
        with torch.inference_mode(False):  # what is tested has no gradients, what is measured may need them
            return self.measure(
                network=full_precision(module.student),
                data=_images(trainer),
                folder=self.folder,
                preprocessing=module.preprocess,
                loggers=trainer.loggers,
                device=str(module.device),
            )


def _images(trainer: Trainer) -> Any:
    return cast(Any, trainer).datamodule.images
