"""Means over validation and test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanMetric


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
