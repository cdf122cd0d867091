"""What is trained before a student is: its teacher, and a stage on top of the teacher where the objective has one.

Each is trained once, in one process, with a seed of its own, and kept; a training that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from introspect.core.errors import InputError
from introspect.core.nested import to_plain
from introspect.distillation.objectives import Stage
from introspect.distillation.optimization import sgd
from introspect.distillation.teacher import Training, keep_weights, load_weights, locked
from introspect.vision.features import features

log = logging.getLogger(__name__)


class StageTraining(LightningModule):
    """Trains a stage on what the frozen teacher makes of images; a checkpoint holds the stage alone.

    Args:
        stage: what is trained.
        teacher: in evaluation mode, without gradients.
        prepare: brings uint8 images to what the teacher takes.
    """

    def __init__(self, stage: Stage, teacher: nn.Module, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stage = stage
        # In a list, so that it is no part of the module.
        self._teacher, self._prepare = [teacher], prepare

    def on_fit_start(self) -> None:
        """The teacher goes to where the stage is."""
        self._teacher[0].to(self.device).to(memory_format=torch.channels_last)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of the stage, a scalar."""
        images = self.stage.views(self._prepare(batch[0]).contiguous(memory_format=torch.channels_last))
        with torch.no_grad():
            taught = features(self._teacher[0], images, self.stage.layers)
        loss = self.stage.loss(taught)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """See `sgd`."""
        how = self.stage.how
        return sgd(
            self.stage.parameters(),
            int(self.trainer.estimated_stepping_batches),
            lr=how.lr,
            momentum=how.momentum,
            weight_decay=how.weight_decay,
            milestones=how.milestones,
        )


def train_apart(module: LightningModule, data: Any, how: Training, device: str, folder: Path) -> None:
    """Train a module on an image set, apart from any other training, and go on where an earlier attempt stopped.

    Args:
        module: what is trained.
        data: an `ImageDataModule`; it is left as it is.
        how: epochs, and the seed of the order of training.
        device: the kind on which it is trained, as Lightning's `accelerator`.
        folder: for the checkpoint of every epoch; it is gone afterwards.
    """
    from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

    own = data.__class__.__new__(data.__class__)
    own.__dict__.update(data.__dict__)
    own.trainer, own.seed, own.beside = None, how.seed, None
    trainer = Trainer(
        max_epochs=how.epochs,
        accelerator=device,
        devices=1,
        logger=False,
        limit_val_batches=None if module_has(module, "validation_step") else 0,
        enable_model_summary=False,
        callbacks=[RichProgressBar(), ModelCheckpoint(folder, save_last=True)],
    )
    stopped = folder / "last.ckpt"
    if stopped.is_file():
        log.info("it goes on from %s", stopped)
    trainer.fit(module, own, ckpt_path=stopped if stopped.is_file() else None, weights_only=True)
    shutil.rmtree(folder, ignore_errors=True)


def is_trial(trainer: Trainer) -> bool:
    """Whether it trains on a part of the data only, to try something: what it makes is no teacher."""
    limit = trainer.limit_train_batches
    whole = isinstance(limit, float) and limit == 1.0
    return bool(trainer.fast_dev_run or trainer.overfit_batches) or not whole  # type: ignore[attr-defined]


def module_has(module: LightningModule, name: str) -> bool:
    """Whether a module has a step of its own of that name."""
    return getattr(type(module), name) is not getattr(LightningModule, name)


def stage_file(stage: Stage, folder: str | Path, identity: str) -> Path:
    """The file of a stage: it changes with every setting, with the teacher and the data, which `identity` tells."""
    digest = hashlib.sha256(_settings(stage, identity).encode()).hexdigest()[:12]
    return Path(folder) / f"{type(stage).__name__.lower()}-{digest}.safetensors"


def _settings(stage: Stage, identity: str) -> str:
    settings = {
        "stage": type(stage).__name__,
        "layers": stage.layers,
        "weights": {name: list(value.shape) for name, value in stage.state_dict().items()},
        "training": asdict(stage.how),
        "made of": identity,
    }
    return json.dumps(to_plain(settings), sort_keys=True)


def make_stage(
    stage: Stage,
    folder: str | Path,
    identity: str,
    teacher: Callable[[], nn.Module],
    prepare: Callable[[Tensor], Tensor],
    data: Any,
    device: str = "auto",
) -> Path:
    """Train a stage and keep it, if that has not been done.

    Args:
        stage: with the weights that it begins with.
        folder: where it is kept.
        identity: of teacher, data and pixels.
        teacher: loads it.
        prepare: see `StageTraining`.
        data: an `ImageDataModule`.
        device: see `train_apart`.

    Returns:
        The file of its weights.
    """
    path = stage_file(stage, folder, identity)
    if path.is_file():
        return path
    with locked(path):
        if path.is_file():
            return path
        log.info("a first stage: %s is trained for %d epochs, and kept", type(stage).__name__, stage.how.epochs)
        with torch.random.fork_rng():
            torch.manual_seed(stage.how.seed)
            train_apart(StageTraining(stage, teacher(), prepare), data, stage.how, device, path.with_suffix(".partial"))
        return keep_weights(stage.cpu(), path, _settings(stage, identity))


def load_stage(stage: Stage, folder: str | Path, identity: str) -> None:
    """Give a stage the weights that `make_stage` has kept.

    Raises:
        InputError: there are none, or they can not be read.
    """
    path = stage_file(stage, folder, identity)
    if not path.is_file():
        raise InputError(f"{path}: the first stage has not been trained: begin with python train.py, in one process")
    load_weights(stage, path)
