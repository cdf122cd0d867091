"""Resuming a training: checking its checkpoint, where in an epoch it goes on, and with which random numbers."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from introspect.core.errors import InputError, first_line
from introspect.core.seeds import derived_seed

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def check_checkpoint(path: str | Path) -> None:
    """Refuse what is no checkpoint of a training; executes nothing that is in the file.

    Raises:
        InputError: there is no such file, it is no checkpoint, or it holds more than plain data and tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"ckpt_path={path} is a folder: a training goes on from a .ckpt file, e.g. checkpoints/last.ckpt"
        )
    if not path.is_file():
        raise InputError(f"ckpt_path={path}: no such file")
    if not zipfile.is_zipfile(path):
        raise InputError(f"ckpt_path={path} is not a Lightning checkpoint")
    import torch

    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError) as error:
        reason = first_line(error)
        raise InputError(f"ckpt_path={path} is not a checkpoint that can be loaded safely: {reason}") from error
    if not isinstance(content, dict) or not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise InputError(f"ckpt_path={path} is not a Lightning checkpoint: it lacks state_dict or its version")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a training stands: the epoch of the next batch, and how many of its batches were trained on.

    `batches` are those of an epoch that are trained on (`limit_train_batches` leaves some out), None for all;
    `accumulate` of them make an optimizer step.
    """

    epoch: int
    trained: int
    batches: int | None = None
    accumulate: int = 1


def place(trainer: Trainer) -> Place:
    """Where a training stands, by what was trained on in all of it.

    Not by what a loader handed out: a batch whose step was interrupted is trained on again. Not by the trainer's epoch
    either: that counts one too many where a run of `max_steps` is resumed from the end of an epoch.
    """
    trained = int(trainer.fit_loop.epoch_loop.batch_progress.total.completed)
    batches = int(trainer.num_training_batches)
    return Place(*divmod(trained, batches), batches, int(trainer.accumulate_grad_batches))


def reseed(trainer: Trainer) -> None:
    """Make the random numbers of a batch (dropout) depend on seed, process and place alone, as after resuming."""
    import torch

    seed = getattr(getattr(trainer, "datamodule", None), "seed", 0)
    now = place(trainer)
    torch.manual_seed(derived_seed((seed, trainer.global_rank, now.epoch, now.trained)))
