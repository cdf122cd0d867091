"""What a network makes of a batch of images, as losses and measures read it.

Shapes: b images, c classes, u units, h x w cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Features:
    """What a network makes of a batch: logits [b, c], and the outputs of those layers that an objective wants."""

    logits: Tensor
    maps: Mapping[str, Tensor] = field(default_factory=dict)


def exact(values: Tensor) -> Tensor:
    """The values in float32, if they are of a shorter type: mixed precision must not reach what needs digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
