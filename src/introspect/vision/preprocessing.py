"""Preprocessing: from pixels, uint8, to what a network takes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from introspect.core.errors import InputError

Preprocess = Callable[[Tensor], Tensor]

# Mean and standard deviation of red, green and blue, in levels from 0 to 255.
NORMALIZATIONS = {
    # Of the published dissections: the means are Places', one deviation serves all channels.
    "reference": ((124.6901, 118.6897, 109.5388), (57.12, 57.12, 57.12)),
    # Of torchvision's networks.
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


def preprocessing(how: str | Callable[[Tensor], Tensor] | Sequence[Sequence[float]]) -> Preprocess:
    """Return a function from images, uint8 [b, 3, h, w], to what the network takes in.

    Args:
        how: `reference`, `imagenet`, a pair of mean and standard deviation of the three channels (in levels from 0 to
            255), or the function itself.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(how, str):
        if how not in NORMALIZATIONS:
            raise InputError(f"preprocessing={how}: expected {', '.join(NORMALIZATIONS)} or [mean, deviation]")
        return Normalize(*NORMALIZATIONS[how])
    if callable(how):
        return how
    try:
        values = torch.tensor([list(part) for part in how], dtype=torch.float64)
    except (TypeError, ValueError):
        values = torch.empty(0)
    if values.shape != (2, 3) or not (values[1] > 0).all():
        raise InputError(f"preprocessing={how}: expected mean and deviation, each of three channels")
    return Normalize(*how)


def described(prepare: Preprocess) -> str:
    """Describe a preprocessing in words, for reports."""
    return str(prepare) if isinstance(prepare, Normalize) else getattr(prepare, "__name__", type(prepare).__name__)


class Normalize:
    """Subtract a mean and divide by a deviation, channel by channel, in float32."""

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        self.mean = torch.tensor(list(mean)).view(3, 1, 1)
        self.deviation = torch.tensor(list(deviation)).view(3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise uint8 [b, 3, h, w]."""
        return images.float().sub_(self.mean.to(images.device)).div_(self.deviation.to(images.device))

    def __repr__(self) -> str:
        mean, deviation = (
            ", ".join(f"{value:g}" for value in values.flatten().tolist()) for values in (self.mean, self.deviation)
        )
        return f"mean {mean}; deviation {deviation} (of levels from 0 to 255)"
