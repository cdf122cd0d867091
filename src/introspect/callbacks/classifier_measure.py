"""A measure of interpretability after the test of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from introspect.callbacks.gathering import by_first
from introspect.core.errors import InputError
from introspect.dissection.measures.base import Measure
from introspect.vision.backbones import full_precision
from introspect.vision.networks import Network


class ClassifierMeasure(Callback):
    """Runs a measure on `module.student` after the test, as `dissect.py measure=…` does, and logs its numbers.

    The first of several devices does it, while the others wait, in float32 whatever the student was trained in.

    Args:
        name: of the measure, as in `dissect.py measure=…`.
        measure: makes the measure of network, data, folder and device.
        folder: where its files go.
    """

    def __init__(self, *, name: str, measure: Callable[..., Measure], folder: str | Path) -> None:
        self.name, self.measure, self.folder = name, measure, Path(folder)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse before the training what would fail after it.

        Raises:
            InputError: an option is impossible, a library is not installed, or the images do not suit the measure.
        """
        try:
            self._made(trainer, pl_module).check()
        except InputError as error:
            raise InputError(f"{error}; ~callbacks.{self.name} leaves this measure out") from error

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the measure, and write its files."""
        pl_module.log_dict(by_first(partial(self._run, trainer, pl_module)))

    def _run(self, trainer: Trainer, module: Any) -> dict[str, float]:
        with torch.inference_mode(False):  # a test has no gradients, a measure may need them
            return self._made(trainer, module)(trainer.loggers)

    def _made(self, trainer: Trainer, module: Any) -> Measure:
        data = cast(Any, trainer).datamodule.images
        return self.measure(network=student_network(module), data=data, folder=self.folder, device=str(module.device))


def student_network(module: Any) -> Network:
    """Return the student of a distillation, in float32, with the preprocessing of its training."""
    return Network(full_precision(module.student), type(module.student).__name__, preprocess=module.preprocess)
