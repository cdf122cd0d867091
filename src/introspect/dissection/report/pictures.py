"""The top-activating images of a unit, with the region outlined where it is active."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.result import Dissection

if TYPE_CHECKING:
    from PIL.Image import Image

_OUTLINE = (255, 221, 0)
_DIMMED = 0.45  # how bright what lies outside the region remains
SIDE = 128  # of a picture, pixels


class Picture(NamedTuple):
    """An image with the region outlined in which a unit is active.

    Attributes:
        image: the picture.
        name: of the image.
        peak: the unit's highest activation in it.
    """

    image: Image
    name: str
    peak: float


def pictures(
    dissection: Dissection, concepts: ConceptDataset, units: Iterable[int], side: int = SIDE
) -> dict[int, list[Picture]]:
    """Draw the examples of units, highest activation first; each image is read once.

    Args:
        dissection: with examples; without, there are no pictures.
        concepts: the data set that it was made with.
        units: numbers of the units.
        side: the longer one of each picture, in pixels.
    """
    wanted = list(units)
    if dissection.examples is None:
        return {unit: [] for unit in wanted}
    images, peaks, maps = dissection.examples
    places = defaultdict(list)
    for unit in wanted:
        for rank, index in enumerate(images[unit].tolist()):
            places[index].append((unit, rank))
    found: dict[tuple[int, int], Picture] = {}
    for index in sorted(places):
        item = concepts[index]
        small = _fit(item.image, side)
        for unit, rank in places[index]:
            drawn = outlined(small, maps[unit, rank], float(dissection.thresholds[unit]))
            found[unit, rank] = Picture(drawn, item.name, float(peaks[unit, rank]))
    return {unit: [found[unit, rank] for rank in range(images.shape[1])] for unit in wanted}


def outlined(image: Tensor, activations: Tensor, threshold: float) -> Image:
    """Dim an image outside a unit's region, and draw a line around this.

    Args:
        image: uint8 [3, height, width].
        activations: the unit's map, [h, w].
        threshold: above which it is active.
    """
    from PIL import Image

    large = F.interpolate(activations[None, None].double(), image.shape[1:], mode="bilinear", align_corners=False)
    region = (large > threshold).float()
    inner = 1 - F.max_pool2d(1 - F.pad(region, (1, 1, 1, 1)), 3, stride=1)
    border = (region - inner)[0, 0].bool()
    pixels = image.float() * (_DIMMED + (1 - _DIMMED) * region[0])
    pixels[:, border] = torch.tensor(_OUTLINE).float()[:, None]
    return Image.fromarray(np.ascontiguousarray(pixels.byte().permute(1, 2, 0).numpy()))


def _fit(image: Tensor, side: int) -> Tensor:
    """Scale an image so that its longer side has so many pixels."""
    height, width = image.shape[1:]
    size = [max(1, round(part * side / max(height, width))) for part in (height, width)]
    if size == [height, width]:
        return image
    scaled = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
    return scaled[0].round().clamp(0, 255).byte()
