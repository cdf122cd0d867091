"""The five-band score: how well an attribution marks the pixels that matter.

After Tjoa and Guan, as in their published code. The channels of an attribution are summed, the sum is divided by its
largest magnitude, and four thresholds cut it into five bands, from -2 to 2. The truth is cut by the same rule, always
with the thresholds `HARD`: 0 is band 0, 0.4 (the object) band 1, 0.9 (what tells its class) band 2. The soft score
repeats this while the thresholds of the attribution move towards 0.

Shapes: n images, 3 channels, h x w pixels, k settings of the thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from introspect.core.errors import InputError

HARD = (-0.7, -0.3, 0.3, 0.7)
_NONE = 2  # the place of band 0 among the five
_TINY = 1e-6


class Scores(NamedTuple):
    """Scores of each image at each setting, float64 [n, k], from 0 to 1.

    Of the pixels outside band 0 in attribution or truth: a hit is in the truth's band; a false alarm is not, though
    outside band 0; a miss is in band 0, and the truth is not. 1e-6 is added to the divisors, as in the reference: a
    score without pixels is 0.

    Attributes:
        accuracy: fraction of the pixels in the band of the truth.
        precision: hits / (hits + false alarms).
        recall: hits / (hits + misses).
        false_positive_rate: false alarms / (false alarms + pixels in band 0 of both).
    """

    accuracy: Tensor
    precision: Tensor
    recall: Tensor
    false_positive_rate: Tensor


@dataclass(frozen=True, slots=True)
class Sweep:
    """Thresholds that move towards 0 by `delta` with each step; `steps` settings with the start.

    The first published setting is (-0.5, -0.3, 0.3, 0.5), 0.005, 56; the second begins at (-0.7, -0.3, 0.3, 0.7).

    Raises:
        InputError: the thresholds are not four in ascending order, two on each side of 0, or would pass 0.
    """

    start: Sequence[float] = (-0.5, -0.3, 0.3, 0.5)
    delta: float = 0.005
    steps: int = 56

    def __post_init__(self) -> None:
        t = list(self.start)
        if len(t) != 4 or not t[0] < t[1] < 0 < t[2] < t[3] <= 1 or t[0] < -1:
            raise InputError(f"thresholds={t}: expected four from -1 to 1, ascending, two below 0 and two above it")
        if self.delta < 0 or self.steps < 1 or self.delta * (self.steps - 1) >= min(-t[1], t[2]):
            raise InputError(
                f"delta={self.delta}, steps={self.steps}: expected steps from 1 that leave the thresholds {t} on "
                "their side of 0"
            )

    def settings(self) -> Tensor:
        """Return the thresholds of each step, float32 [steps, 4]."""
        start = torch.tensor(list(self.start), dtype=torch.float64)
        moved = start - start.sign() * self.delta * torch.arange(self.steps, dtype=torch.float64)[:, None]
        return moved.float()


def hard() -> Tensor:
    """Return the thresholds of the truth, float32 [1, 4]."""
    return torch.tensor([HARD])


def normalised(attribution: Tensor) -> Tensor:
    """Sum over the channels and divide by the largest magnitude in each image; one that is 0 everywhere stays so.

    Args:
        attribution: float [n, channels, h, w].

    Returns:
        From -1 to 1, float32 [n, h, w].

    Raises:
        InputError: a value is not finite.
    """
    total = attribution.detach().float().sum(1)
    if not total.isfinite().all():
        raise InputError("an attribution is not finite: the network or the method fails on some image")
    largest = total.abs().amax((1, 2), keepdim=True)
    return torch.where(largest > 0, total / largest.where(largest > 0, 1), 0)


def bands(values: Tensor, thresholds: Tensor) -> Tensor:
    """Return the band, from -2 to 2, of each value: -2 up to the first of four thresholds, 2 above the last."""
    return torch.bucketize(values, thresholds.to(values.device)) - _NONE


def scores(attribution: Tensor, truth: Tensor, thresholds: Tensor) -> Scores:
    """Score attributions at several settings of the thresholds at once.

    One pass suffices: the numbers of pixels between neighbouring thresholds, per band of the truth, give all scores.

    Args:
        attribution: float [n, channels, h, w].
        truth: 0, 0.4 or 0.9, float [n, h, w].
        thresholds: ascending, float32 [k, 4].

    Raises:
        InputError: the sizes differ, or an attribution is not finite.
    """
    if attribution.shape[0] != truth.shape[0] or attribution.shape[2:] != truth.shape[1:]:
        raise InputError(f"an attribution of {list(attribution.shape)} does not fit a truth of {list(truth.shape)}")
    counts = _counts(normalised(attribution).cpu(), bands(truth.float(), hard()[0]).cpu() + _NONE, thresholds)
    counts = counts.double()  # [n, k, band of the attribution, band of the truth]
    pixels = counts.sum((2, 3))
    same = counts.diagonal(dim1=2, dim2=3)
    neither = same[..., _NONE]
    hits = same.sum(2) - neither
    misses = counts[:, :, _NONE].sum(2) - neither
    alarms = pixels - hits - misses - neither
    return Scores(
        same.sum(2) / pixels,
        hits / (hits + alarms + _TINY),
        hits / (hits + misses + _TINY),
        alarms / (alarms + neither + _TINY),
    )


def _counts(values: Tensor, truth: Tensor, thresholds: Tensor) -> Tensor:
    """Count the pixels in each band of the values (dim 2) and of the truth (dim 3, from 0 to 4), int64 [n, k, 5, 5]."""
    edges = thresholds.unique()  # ascending
    n, cells = len(values), (len(edges) + 1) * 5
    place = torch.bucketize(values, edges) * 5 + truth + torch.arange(n)[:, None, None] * cells
    counts = torch.bincount(place.flatten(), minlength=n * cells).view(n, len(edges) + 1, 5)
    up_to = counts.cumsum(1)  # pixels up to each edge; the last: all
    inner = up_to[:, torch.searchsorted(edges, thresholds)]  # [n, k, 4, 5]
    last = up_to[:, -1:, None].expand(-1, len(thresholds), 1, 5)
    return torch.cat([inner, last], 2).diff(dim=2, prepend=torch.zeros_like(last))
