"""Resume a training: check its checkpoint, find its place within an epoch, and restore its random numbers."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from introspect.core.errors import InputError, first_line
from introspect.core.protocols import Seeded
from introspect.core.seeds import derived_seed

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read the checkpoint of a training, on the CPU and without executing anything in the file.

    Raises:
        InputError: there is no such file, it is not a checkpoint, or it holds more than plain data and tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"ckpt_path={path} is a folder: a training resumes from a .ckpt file, e.g. checkpoints/last.ckpt"
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
    return content


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], complaints: Mapping[str, str]) -> None:
    """Refuse to resume a training with another value of what decides its batches.

    Args:
        before: the values of the checkpoint; values that it lacks are not compared.
        now: the values of this run.
        complaints: by name, what follows "the checkpoint was trained".

    Raises:
        InputError: a value differs, the first in the order of `complaints`.
    """
    for name, complaint in complaints.items():
        if name in before and before[name] != now[name]:
            raise InputError(f"ckpt_path: the checkpoint was trained {complaint}")


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a training.

    Attributes:
        epoch: of the next batch.
        trained: batches of that epoch that were trained on.
        batches: per epoch, without those that `limit_train_batches` leaves out; None for all.
        accumulate: batches per optimizer step.
    """

    epoch: int
    trained: int
    batches: int | None = None
    accumulate: int = 1


def place(trainer: Trainer) -> Place:
    """Return the position of a training, from the number of batches trained on since its start.

    A loader has handed out more: a batch whose step was interrupted is trained on again. The trainer's own epoch is one
    too high where a run of `max_steps` is resumed from the end of an epoch.
    """
    trained = int(trainer.fit_loop.epoch_loop.batch_progress.total.completed)
    batches = int(trainer.num_training_batches)
    return Place(*divmod(trained, batches), batches, int(trainer.accumulate_grad_batches))


class EpochLoader:
    """Batches of an epoch, from the place that training has reached.

    It is deliberately not a `DataLoader`: Lightning would put a sampler of its own into one.

    Args:
        place: returns where the training stands; called when the first batch of an iteration is needed.
    """

    def __init__(self, place: Callable[[], Place]) -> None:
        self._place = place

    def __len__(self) -> int:
        """Batches of a whole epoch, also while one is being resumed."""
        raise NotImplementedError

    def batches(self, place: Place) -> Iterable[Any]:
        """Return the batches of the epoch of a place that have not been trained on."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        # A generator, so that the place is looked up with the first batch: Lightning makes the iterator of a resumed
        # epoch before it knows where that epoch goes on.
        yield from self.batches(self._place())

    def state_dict(self) -> dict[str, int]:
        """Return the place, for a checkpoint. This method tells Lightning that the loader resumes within an epoch."""
        place = self._place()
        return {"epoch": place.epoch, "trained": place.trained}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing: the place is looked up where it is known.

        Lightning restores no loader that was made before the checkpoint was read, and a learning rate schedule that
        needs the number of steps makes it before.
        """


def reseed(trainer: Trainer) -> None:
    """Make the random numbers of a batch (dropout) depend on seed, process and place alone, as after resuming."""
    import torch

    data = trainer.datamodule  # type: ignore[attr-defined]
    seed = data.seed if isinstance(data, Seeded) else 0
    now = place(trainer)
    torch.manual_seed(derived_seed((seed, trainer.global_rank, now.epoch, now.trained)))
