"""Where a training goes on that was stopped within an epoch, and with which random numbers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def place(trainer: Trainer) -> tuple[int, int]:
    """The epoch of the next batch, and its place in it, by what was trained on in all of the training.

    Not by what a loader handed out: a batch whose step was interrupted is trained on again. Not by the trainer's epoch
    either: that counts one too many where a run of `max_steps` is resumed from the end of an epoch.
    """
    trained = int(trainer.fit_loop.epoch_loop.batch_progress.total.completed)
    epoch, place = divmod(trained, int(trainer.num_training_batches))
    return epoch, place


def mixed(*numbers: int) -> int:
    """A generator's seed for which (0, 1) and (1, 0) are unrelated."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest(), "big")
