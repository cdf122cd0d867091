"""A part of a benchmark, so that many machines can share one job."""

from __future__ import annotations

from introspect.benchmarks.base import Benchmark
from introspect.benchmarks.examples import MultiHopExample
from introspect.core.errors import InputError


class Slice:
    """Every `count`-th question of a benchmark, from number `index` on: the slices together are the whole.

    Neighbours are dealt to different slices, so that each has its share of every kind. The questions keep their ids:
    what slices answer is what the whole would have asked.
    """

    def __init__(self, *, benchmark: Benchmark, index: int, count: int) -> None:
        """Raises InputError unless 0 <= index < count."""
        if not 0 <= index < count:
            raise InputError(f"slice: index={index} of count={count}, expected 0 to {count - 1}")
        self.name, self._benchmark, self._index, self._count = benchmark.name, benchmark, index, count

    def load(self, split: str, limit: int | None = None) -> list[MultiHopExample]:
        """The slice of the first `limit` examples (of all by default)."""
        return self._benchmark.load(split, limit)[self._index :: self._count]
