"""The exact upper quantile of each unit's activations, which come in pieces.

Network dissection calls a unit active where it exceeds the value that it exceeds in a share q (0.005) of all cells of
all feature maps. What is above the (1 - q) quantile of n values is among the largest q n, and nothing else is kept.

Shapes: u units, n values per unit in all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from introspect.errors import InputError


class UpperQuantile:
    """The (1 - q) quantile of each unit, exact: that of `numpy.quantile` with linear interpolation.

    Args:
        quantile: q, the share of values above it, in (0, 1).
        total: n, how many values each unit will have seen in the end.

    Raises:
        InputError: q is not a share, or there are no values.
    """

    def __init__(self, quantile: float, total: int) -> None:
        if not 0 < quantile < 1:
            raise InputError(f"quantile={quantile}: expected a share between 0 and 1, such as 0.005")
        if total < 1:
            raise InputError("there are no activations to take a quantile of")
        self.quantile = quantile
        self.total = total
        self._rank = quantile * (total - 1)  # counted from the largest, 0; between two values if not whole
        self._kept = min(total, math.floor(self._rank) + 2)
        self._largest: Tensor | None = None
        self._seen = 0

    def add(self, activations: Tensor) -> None:
        """Take in values [u, any number]; their order does not matter.

        A full set of candidates fixes a floor that only larger values can rise above: units none of whose values do so
        are not touched.
        """
        self._seen += activations.shape[1]
        if self._largest is None:
            self._largest = activations.topk(min(self._kept, activations.shape[1]), dim=1).values
            return
        if self._largest.shape[1] < self._kept:
            joined = torch.cat([self._largest, activations], dim=1)
            self._largest = joined.topk(min(self._kept, joined.shape[1]), dim=1).values
            return
        above = activations > self._largest[:, -1:]
        most = int(above.sum(1).max())
        if most:
            # At most `most` newcomers per unit can be among the largest.
            news = activations.topk(most, dim=1).values
            self._largest = torch.cat([self._largest, news], dim=1).topk(self._kept, dim=1).values

    def thresholds(self) -> Tensor:
        """The quantile of each unit, float64 [u].

        Raises:
            ValueError: more or fewer values came than were announced.
        """
        if self._largest is None or self._seen != self.total:
            raise ValueError(f"{self._seen} values per unit came, {self.total} were announced")
        above = math.floor(self._rank)
        largest = self._largest.double()
        upper, lower = largest[:, above], largest[:, min(above + 1, self.total - 1)]
        return upper + (lower - upper) * (self._rank - above)
