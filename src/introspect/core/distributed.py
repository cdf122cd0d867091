"""Evaluation in several processes: every item is evaluated once, by one of them, and means are exact.

Lightning would give a `DataLoader` a sampler that fills uneven shares up with items that come twice, and counts them
twice.
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
    """How many processes work together, and which of them this is, from 0."""
    return (int(trainer.world_size), int(trainer.global_rank)) if trainer else (1, 0)


def check_whole(trainer: Trainer) -> None:
    """Refuse what would wait forever, or see parts of weights: spread weights want all processes at each forward pass.

    Raises:
        InputError: the strategy spreads the weights over devices.
    """
    from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        raise InputError(
            "trainer.strategy: a student whose weights are spread over devices can neither answer questions nor be "
            "measured or exported; train with test=false ~callbacks.answer_accuracy ~callbacks.export_student, then "
            "evaluate.py ckpt_path=…"
        )


def share(items: Sequence[T], replicas: int, rank: int) -> Sequence[T]:
    """The items of one process: consecutive, so that those of all processes, rank by rank, are in the first order."""
    return items[len(items) * rank // replicas : len(items) * (rank + 1) // replicas]


def batches(count: int, batch_size: int, replicas: int = 1, rank: int = 0) -> list[list[int]]:
    """Indices in batches for one of several processes, with as many batches in each.

    Processes take turns within batches that they share, of `batch_size` each; where the last of these has too few for
    all, it is joined to the one before it.

    Returns:
        Every index once among all processes. Only the last batch can have another size than `batch_size`: fewer, or one
        more; and none at all where there are fewer indices than processes.
    """
    starts = list(range(0, count, batch_size * replicas))
    if len(starts) > 1 and count - starts[-1] < replicas:
        starts.pop()
    return [list(range(first, last))[rank::replicas] for first, last in pairwise([*starts, count])]


class SharedLoader:
    """Batches of one process.

    It is deliberately no `DataLoader`: Lightning would put a sampler of its own into one.

    Args:
        load: makes a loader, given `batch_sampler`.
        batches: the indices of each batch.
    """

    def __init__(self, load: Callable[..., DataLoader[Any]], batches: Sequence[list[int]]) -> None:
        self.load, self.batches = load, batches

    def __len__(self) -> int:
        """Batches, as many in every process."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        yield from self.load(batch_sampler=self.batches)


class Mean(MeanMetric):
    """A weighted mean, exact over several processes and whatever a module that holds it computes in.

    Lightning's own mean divides by a rounded number of items where several processes count, and torchmetrics' would sum
    in the 16 bits that `trainer.precision=bf16-true` turns every tensor of a module into.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        def moved(tensor: Tensor) -> Any:
            return fn(tensor).to(tensor.dtype)

        kept = self._dtype
        super()._apply(moved, exclude_state)
        self._dtype = kept  # what values are converted to
        return self
