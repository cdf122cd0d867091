"""The first stage of an objective: a network on top of the frozen teacher that is trained once and kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from introspect.core.errors import InputError
from introspect.distillation.cache import make_once, save_weights, settings_text, weights_file
from introspect.distillation.datamodule import ImageDataModule
from introspect.distillation.objectives import Stage
from introspect.distillation.training import sgd, train_separately
from introspect.vision.features import features
from introspect.vision.networks import load_weights

log = logging.getLogger(__name__)


class StageTraining(LightningModule):
    """Trains a stage on the outputs of the frozen teacher; a checkpoint holds the stage alone.

    Args:
        stage: what is trained.
        teacher: in evaluation mode, without gradients.
        prepare: from uint8 images to the inputs of the teacher.
    """

    def __init__(self, stage: Stage, teacher: nn.Module, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stage = stage
        # In a list, so that it is not a submodule.
        self._teacher, self._prepare = [teacher], prepare

    def on_fit_start(self) -> None:
        """Move the teacher to the device of the stage."""
        self._teacher[0].to(self.device).to(memory_format=torch.channels_last)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of the stage, a scalar."""
        images = self.stage.inputs(self._prepare(batch[0]).contiguous(memory_format=torch.channels_last))
        with torch.no_grad():
            outputs = features(self._teacher[0], images, self.stage.layers)
        loss = self.stage.loss(outputs)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """See `sgd`."""
        settings = self.stage.settings
        return sgd(
            self.stage.parameters(),
            int(self.trainer.estimated_stepping_batches),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            milestones=settings.milestones,
        )


def stage_file(stage: Stage, folder: str | Path, identity: str) -> Path:
    """Return the file of a stage.

    Args:
        stage: whose settings are part of the name.
        folder: where stages are kept.
        identity: of teacher, data and pixels.
    """
    return weights_file(folder, type(stage).__name__.lower(), _settings(stage, identity))


def _settings(stage: Stage, identity: str) -> str:
    return settings_text(
        {
            "stage": type(stage).__name__,
            "layers": stage.layers,
            "weights": {name: list(value.shape) for name, value in stage.state_dict().items()},
            "training": asdict(stage.settings),
            "made of": identity,
        }
    )


def make_stage(
    stage: Stage,
    folder: str | Path,
    identity: str,
    teacher: Callable[[], nn.Module],
    prepare: Callable[[Tensor], Tensor],
    data: ImageDataModule,
    device: str = "auto",
) -> Path:
    """Train a stage and keep it, if there is none yet.

    Args:
        stage: with its initial weights.
        folder: where it is kept.
        identity: of teacher, data and pixels.
        teacher: loads it.
        prepare: see `StageTraining`.
        data: the images.
        device: see `train_separately`.

    Returns:
        The file of its weights.
    """
    path, settings = stage_file(stage, folder, identity), stage.settings

    def train() -> None:
        log.info("training the first stage %s for %d epochs, once", type(stage).__name__, settings.epochs)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            module = StageTraining(stage, teacher(), prepare)
            train_separately(module, data, settings, device, path.with_suffix(".partial"))
        save_weights(stage.cpu(), path, _settings(stage, identity))

    return make_once(path, train)


def load_stage(stage: Stage, folder: str | Path, identity: str) -> None:
    """Load the weights that `make_stage` has kept.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    path = stage_file(stage, folder, identity)
    if not path.is_file():
        raise InputError(f"{path}: the first stage has not been trained: start with python train.py, in one process")
    load_weights(stage, path)
