"""Evaluation in several processes: every item is evaluated once, by one of them, and means are exact.

Lightning would give a `DataLoader` a sampler that pads uneven parts with repeated items, and count these twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn
from torchmetrics import MeanMetric

from introspect.core.errors import InputError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from torch.utils.data import DataLoader

T = TypeVar("T")


def processes(trainer: Trainer | None) -> tuple[int, int]:
    """Return the number of processes, and the rank of this one."""
    return (int(trainer.world_size), int(trainer.global_rank)) if trainer else (1, 0)


def check_whole(trainer: Trainer) -> None:
    """Refuse sharded weights, which every process must take part in using at each forward pass.

    Raises:
        InputError: the strategy shards the weights.
    """
    from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        raise InputError(
            "trainer.strategy: a student whose weights are sharded over devices can neither answer questions nor be "
            "evaluated or exported; train with test=false ~callbacks.answer_accuracy ~callbacks.export_student, then "
            "evaluate.py ckpt_path=…"
        )


def share(items: Sequence[T], replicas: int, rank: int) -> Sequence[T]:
    """Return the items of one process: consecutive, so that all of them, rank by rank, have the original order."""
    return items[len(items) * rank // replicas : len(items) * (rank + 1) // replicas]


def batches(count: int, batch_size: int, replicas: int = 1, rank: int = 0) -> list[list[int]]:
    """Distribute indices over batches of one of several processes; each process has the same number of batches.

    Indices are interleaved over the processes, `batch_size` for each; where the last round has too few for all, it is
    joined to the one before.

    Returns:
        Each index once among all processes. Only the last batch can have another size than `batch_size`: smaller, or
        larger by one; it is empty where there are fewer indices than processes.
    """
    starts = list(range(0, count, batch_size * replicas))
    if len(starts) > 1 and count - starts[-1] < replicas:
        starts.pop()
    return [list(range(first, last))[rank::replicas] for first, last in pairwise([*starts, count])]


class SharedLoader:
    """Load the batches of one process.

    It is deliberately no `DataLoader`: Lightning would replace the sampler of one.

    Args:
        load: creates a loader, given `batch_sampler`.
        batches: the indices of each batch.
    """

    def __init__(self, load: Callable[..., DataLoader[Any]], batches: Sequence[list[int]]) -> None:
        self.load, self.batches = load, batches

    def __len__(self) -> int:
        """Number of batches, the same in every process."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        yield from self.load(batch_sampler=self.batches)


class Mean(MeanMetric):
    """A weighted mean that is exact over several processes and in modules of any precision.

    Lightning's own mean divides by a rounded number of items in several processes, and torchmetrics' mean would sum in
    the 16 bits to which `trainer.precision=bf16-true` casts every tensor of a module.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        def moved(tensor: Tensor) -> Any:
            return fn(tensor).to(tensor.dtype)

        kept = self._dtype
        super()._apply(moved, exclude_state)
        self._dtype = kept  # the type that values are converted to
        return self
