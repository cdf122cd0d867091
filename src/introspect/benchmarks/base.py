"""What a benchmark is, and a part of one."""

from __future__ import annotations

from typing import Protocol

from introspect.benchmarks.examples import MultiHopExample
from introspect.core.errors import InputError

SPLITS = ("train", "validation", "test")


class Benchmark(Protocol):
    """A source of multi-hop questions."""

    name: str

    def load(self, split: str, limit: int | None = None) -> list[MultiHopExample]:
        """Load the first `limit` examples (all by default) of `train`, `validation` or `test`, always in one order.

        Raises:
            InputError: for an unknown split, an unreachable source or a malformed item.
        """
        ...


class Slice:
    """Every `count`-th question of a benchmark, from number `index` on, so that many machines can share one job.

    The slices together are the whole. Neighbours go to different slices, so that each has its part of every kind. The
    questions keep their ids: responses to the slices are found again in a run of the whole.
    """

    def __init__(self, *, benchmark: Benchmark, index: int, count: int) -> None:
        """Raises InputError unless 0 <= index < count."""
        if not 0 <= index < count:
            raise InputError(f"slice: index={index} of count={count}, expected 0 to {count - 1}")
        self.name, self._benchmark, self._index, self._count = benchmark.name, benchmark, index, count

    def load(self, split: str, limit: int | None = None) -> list[MultiHopExample]:
        """Load the slice of the first `limit` examples (of all by default)."""
        return self._benchmark.load(split, limit)[self._index :: self._count]
