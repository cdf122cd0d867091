"""The exact upper quantile of each unit's activations, which arrive in pieces.

In network dissection a unit is active where it exceeds the (1 - q) quantile, q = 0.005, of its activations in all cells
of all feature maps. What is above the quantile of n values is among the largest q n; nothing else is kept.

Shapes: u units, n values per unit in all, k = about q n of them kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from introspect.core.errors import InputError
from introspect.dissection.tally import flat_nonzero

_LEAST_ROOM = 4096  # values per unit


class UpperQuantile:
    """The (1 - q) quantile of each unit, exact: that of `numpy.quantile` with linear interpolation.

    A buffer holds the k largest values so far at its end, the smallest of them first. That one is the floor: only
    values above it are added, in the free part before the others, until this is full for some unit. Then the largest
    are selected again. This happens about log(1 / q) / log(1.5) times however long the stream is. Memory: 1.5 k
    values per unit.

    Args:
        quantile: q, the fraction of values above it, in (0, 1).
        total: n, number of values that each unit gets in all.

    Raises:
        InputError: q is not between 0 and 1, or there are no values.
    """

    def __init__(self, quantile: float, total: int) -> None:
        if not 0 < quantile < 1:
            raise InputError(f"quantile={quantile}: expected a fraction between 0 and 1, such as 0.005")
        if total < 1:
            raise InputError("there are no activations to take a quantile of")
        self.quantile = quantile
        self.total = total
        self._rank = quantile * (total - 1)  # counted from the largest, 0; between two values if not whole
        self._kept = min(total, math.floor(self._rank) + 2)
        self._room = min(total, max(self._kept // 2, _LEAST_ROOM))
        self._values = torch.empty(0)
        self._waiting = torch.empty(0)
        self._seen = 0

    def add(self, activations: Tensor) -> None:
        """Take in finite values [u, any number]; their order does not matter."""
        if not self._seen:
            self._begin(activations)
        self._seen += activations.shape[1]
        for piece in activations.split(self._room, dim=1):
            self._take_in(piece.contiguous())

    def thresholds(self) -> Tensor:
        """Return the quantile of each unit, float64 [u], in main memory: not every device has that precision.

        Raises:
            ValueError: more or fewer values came than announced.
        """
        if self._seen != self.total:
            raise ValueError(f"{self._seen} values per unit came, {self.total} were announced")
        self._choose()
        # Of the largest, the two that the quantile lies between are the least.
        ends = self._values[:, self._room :].topk(min(2, self._kept), dim=1, largest=False).values.cpu().double()
        lower, upper = ends[:, 0], ends[:, -1]
        return upper + (lower - upper) * (self._rank - math.floor(self._rank))

    def _begin(self, like: Tensor) -> None:
        with torch.inference_mode(False):  # tensors made under it could not be changed outside
            shape = len(like), self._room + self._kept
            self._values = torch.full(shape, -torch.inf, dtype=like.dtype, device=like.device)
            self._waiting = torch.zeros(len(like), dtype=torch.int64, device=like.device)

    def _take_in(self, piece: Tensor) -> None:
        """Add those of values [u, at most the free part] that are above the floor."""
        above = piece > self._values[:, self._room, None]
        news = above.sum(1)
        if int((self._waiting + news).max()) > self._room:
            self._choose()
            above = piece > self._values[:, self._room, None]
            news = above.sum(1)
        source = flat_nonzero(above)
        unit = torch.arange(len(piece), device=piece.device).repeat_interleave(news)
        # A new value's place: its number among those of its unit, after those that were added before.
        first = unit * self._values.shape[1] + (self._waiting - news.cumsum(0) + news).index_select(0, unit)
        place = first + torch.arange(len(source), device=piece.device)
        self._values.view(-1)[place] = piece.view(-1).index_select(0, source)
        self._waiting += news

    def _choose(self) -> None:
        """Move the largest to the end; the part before them is free again."""
        if self._values.device.type == "cpu":
            self._values.numpy().partition(self._room, axis=1)
        else:
            largest = self._values.topk(self._kept, dim=1).values
            self._values[:, self._room :] = largest.flip(1)
        self._waiting.zero_()
