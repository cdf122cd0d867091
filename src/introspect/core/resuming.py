"""Where a training goes on that was stopped within an epoch, and with which random numbers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


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


def settle(trainer: Trainer) -> None:
    """Make the chance of a batch (dropout) a matter of seed, process and place: a resumed training has the same."""
    import torch

    seed = getattr(getattr(trainer, "datamodule", None), "seed", 0)
    now = place(trainer)
    torch.manual_seed(mixed(seed, trainer.global_rank, now.epoch, now.trained))


def mixed(*numbers: int) -> int:
    """A generator's seed for which (0, 1) and (1, 0) are unrelated."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest(), "big")
