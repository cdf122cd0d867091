"""Counting, for all units and all labels at once, the pixels at which a unit is active and a label holds.

A unit is active at the pixels of a mask where its feature map, upsampled to the mask bilinearly (half-pixel centres,
edges repeated), exceeds the unit's threshold. Those pixels are few, about 1 in 200, and this is what makes it fast:
between four neighbouring cells of the map the upsampled value never exceeds the largest of the four, so only the
*patches* of pixels between cells of which one exceeds the threshold are computed at all, and only the pixels above the
threshold are looked up in the masks.

    cells of the map            the patch between a, b, c, d:  all pixels whose four neighbours they are
      a ─ b                     edges: the map is continued by a repeated border, so a map of h x w cells
      │ ▒ │                     has (h + 1) x (w + 1) patches
      c ─ d

Two rules say in which images a category counts, that is, which of a unit's active pixels go into the denominator:

- `lite` (NetDissect-Lite, and papers after it): images in which a label of the category lies under the unit's mask.
- `original` (NetDissect): images that are annotated with the category at all. The IoU is never larger.

Shapes: b images, u units, h x w cells, sh x sw pixels of a mask, c pixel layers, l labels, k categories; n patches,
m active pixels. Counts are whole numbers, int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Presence = Literal["lite", "original"]

PRESENCES: tuple[Presence, ...] = ("lite", "original")
EPSILON = 1e-10


@dataclass(frozen=True)
class Counts:
    """Sums over all images so far.

    intersections: active pixels with a label, [u, l]; once per pixel layer in which the label holds.
    areas: active pixels, [u]. category_areas: those in images where a category counts, [u, k].
    label_pixels: pixels with a label, [l].
    """

    intersections: Tensor
    areas: Tensor
    category_areas: Tensor
    label_pixels: Tensor

    @classmethod
    def zeros(cls, units: int, labels: int, categories: int, device: torch.device | str = "cpu") -> Counts:
        """Before the first image."""
        shapes = ((units, labels), (units,), (units, categories), (labels,))
        return cls(*(torch.zeros(shape, dtype=torch.int64, device=device) for shape in shapes))


@dataclass(frozen=True)
class Masks:
    """The annotations of b images with masks of one size.

    pixels: label of each pixel in each layer, int32 [b * sh * sw, c]; 0 is none.
    scalars: how often each image as a whole has each label, float64 [b, l].
    size: (sh, sw).
    """

    pixels: Tensor
    scalars: Tensor
    size: tuple[int, int]
    images: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", len(self.scalars))

    @classmethod
    def of(cls, pixels: Sequence[Tensor], scalars: Sequence[Sequence[int]], labels: int) -> Masks:
        """From the layers [c, sh, sw] of each image, which may differ in c, and its whole-image labels."""
        size = pixels[0].shape[1], pixels[0].shape[2]
        layers = max(len(layer) for layer in pixels)
        stacked = torch.zeros(len(pixels), *size, layers, dtype=torch.int32)
        for image, layer in zip(stacked, pixels, strict=True):
            image[..., : len(layer)] = layer.permute(1, 2, 0)
        counts = torch.zeros(len(pixels), labels, dtype=torch.float64)
        for row, numbers in zip(counts, scalars, strict=True):
            if numbers:
                row += torch.bincount(torch.tensor(numbers), minlength=labels)
        return cls(stacked.view(-1, layers), counts, size)

    def to(self, device: torch.device | str) -> Masks:
        """On another device."""
        return Masks(self.pixels.to(device), self.scalars.to(device), self.size)


class _Bands(NamedTuple):
    """How one axis of a map becomes that of a mask: bands of pixels between neighbouring cells.

    low, high: the two cells of each band, [h + 1]. weight: of the high one at each pixel, float64 [h + 1, s].
    pixel: which pixel of the mask that is, [h + 1, s]; -1 fills up bands that have fewer than s.
    """

    low: Tensor
    high: Tensor
    weight: Tensor
    pixel: Tensor


def _bands(cells: int, pixels: int) -> _Bands:
    centre = (torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / pixels - 0.5
    band = centre.floor().long() + 1
    counts = torch.bincount(band, minlength=cells + 1)
    place = torch.arange(pixels) - (counts.cumsum(0) - counts)[band]
    pixel = torch.full((cells + 1, int(counts.max())), -1)
    pixel[band, place] = torch.arange(pixels)
    weight = torch.zeros(pixel.shape, dtype=torch.float64)
    weight[band, place] = centre - centre.floor()
    edges = torch.arange(-1, cells)
    return _Bands(edges.clamp(min=0), (edges + 1).clamp(max=cells - 1), weight, pixel)


class _Patches(NamedTuple):
    """Both axes: bands of rows and of columns, and the pixel number of each place of each patch, -1 for none."""

    rows: _Bands
    columns: _Bands
    pixel: Tensor


@lru_cache(maxsize=64)
def _patches(cells: tuple[int, int], pixels: tuple[int, int], device: torch.device) -> _Patches:
    rows, columns = (
        _Bands(*(part.to(device) for part in _bands(*pair))) for pair in zip(cells, pixels, strict=True)
    )
    y, x = rows.pixel[:, None, :, None], columns.pixel[None, :, None, :]
    pixel = torch.where((y < 0) | (x < 0), -1, y * pixels[1] + x)
    return _Patches(rows, columns, pixel.reshape(-1, pixel.shape[2] * pixel.shape[3]))


class Active(NamedTuple):
    """The active pixels of b images: `pair` is image * u + unit, `pixel` image * sh * sw + place in it; both [m]."""

    pair: Tensor
    pixel: Tensor


def active_pixels(activations: Tensor, thresholds: Tensor, size: tuple[int, int]) -> Active:
    """Where the upsampled maps exceed the thresholds.

    Args:
        activations: of a batch, float [b, u, h, w].
        thresholds: float64 [u].
        size: (sh, sw), pixels of a mask.
    """
    images, units, height, width = activations.shape
    rows, columns, places = _patches((height, width), size, activations.device)
    above = activations > _below(thresholds, activations.dtype)[:, None, None]
    above = above.index_select(2, rows.low) | above.index_select(2, rows.high)
    above = above.index_select(3, columns.low) | above.index_select(3, columns.high)
    patch = above.flatten().nonzero().squeeze(1)
    pair = patch.div((height + 1) * (width + 1), rounding_mode="floor")
    place = patch - pair * ((height + 1) * (width + 1))
    row = place.div(width + 1, rounding_mode="floor")
    column = place - row * (width + 1)
    values = _upsample(activations.flatten(), pair * (height * width), width, rows, columns, row, column)
    limit = thresholds.index_select(0, pair % units).to(values.dtype)
    hits = (values > limit[:, None, None]).flatten().nonzero().squeeze(1)
    source = hits.div(places.shape[1], rounding_mode="floor")
    pixel = places.flatten().index_select(0, place.index_select(0, source) * places.shape[1] + hits % places.shape[1])
    pair = pair.index_select(0, source)
    inside = pixel >= 0
    pair, pixel = pair[inside], pixel[inside]
    return Active(pair, pair.div(units, rounding_mode="floor") * (size[0] * size[1]) + pixel)


def _upsample(
    cells: Tensor, origin: Tensor, width: int, rows: _Bands, columns: _Bands, row: Tensor, column: Tensor
) -> Tensor:
    """The values of the n patches at (row, column) of the maps that begin at `origin`, float64 [n, s, s].

    As `low + weight * (high - low)`, which between equal cells is exactly their value.
    """
    exact = torch.float32 if cells.device.type == "mps" else torch.float64

    def corner(y: Tensor, x: Tensor) -> Tensor:
        index = origin + y.index_select(0, row) * width + x.index_select(0, column)
        return cells.index_select(0, index).to(exact)

    across = columns.weight.index_select(0, column).to(exact)
    top, bottom = (
        left[:, None] + across * (corner(y, columns.high) - left)[:, None]
        for y, left in ((y, corner(y, columns.low)) for y in (rows.low, rows.high))
    )
    down = rows.weight.index_select(0, row).to(exact)
    return torch.addcmul(top[:, None, :], down[:, :, None], (bottom - top)[:, None, :])


def _below(thresholds: Tensor, dtype: torch.dtype) -> Tensor:
    """The thresholds in the activations' precision, rounded down: `x > t` is the same for every such x."""
    rounded = thresholds.to(dtype)
    lower = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
    return torch.where(rounded.double() > thresholds, lower, rounded)


def add(
    counts: Counts, activations: Tensor, thresholds: Tensor, masks: Masks, primary: Tensor, presence: Presence
) -> None:
    """Count a batch into `counts`.

    Args:
        counts: what came before; changed in place.
        activations: of the images of `masks`, float [b, u, h, w].
        thresholds: float64 [u].
        masks: the annotations.
        primary: category in which each label counts, int64 [l].
        presence: in which images a category counts; see the module.
    """
    units, labels = counts.intersections.shape
    categories = counts.category_areas.shape[1]
    size = masks.size[0] * masks.size[1]
    active = active_pixels(activations, thresholds, masks.size)
    pairs = masks.images * units
    area = torch.bincount(active.pair, minlength=pairs).view(masks.images, units)

    found = masks.pixels.index_select(0, active.pixel)
    key = (active.pair % units * labels)[:, None] + found
    together = torch.bincount(key.flatten(), minlength=units * labels).view(units, labels)
    together[:, 0] = 0
    counts.intersections.add_(together)
    used = masks.scalars.any(0).nonzero().squeeze(1)
    whole = masks.scalars[:, used]
    counts.intersections[:, used] += (area.double().T @ whole).long()

    per_image = _label_pixels(masks, labels)
    counts.label_pixels.add_(per_image.sum(0))
    counts.label_pixels[used] += (whole.sum(0) * size).long()
    counts.areas.add_(area.sum(0))

    # Label 0 belongs to no category: it goes to one more, which is cut off.
    category = torch.cat([primary.new_tensor([categories]), primary[1:]])
    in_image = _has_category(masks.scalars > 0, primary, categories)
    if presence == "lite":
        key = (active.pair * (categories + 1))[:, None] + category.index_select(0, found.flatten()).view(found.shape)
        under = torch.bincount(key.flatten(), minlength=pairs * (categories + 1)) > 0
        counted = under.view(masks.images, units, categories + 1)[..., :categories] | in_image[:, None]
    else:
        counted = (in_image | _has_category(per_image > 0, primary, categories))[:, None]
    counts.category_areas.add_((area[..., None] * counted).sum(0))


def _label_pixels(masks: Masks, labels: int) -> Tensor:
    """How many pixels of each image have each label, [b, l]; none have label 0."""
    image = torch.arange(masks.images, device=masks.pixels.device) * labels
    key = masks.pixels.view(masks.images, -1) + image[:, None]
    counted = torch.bincount(key.flatten(), minlength=masks.images * labels).view(masks.images, labels)
    counted[:, 0] = 0
    return counted


def _has_category(has_label: Tensor, primary: Tensor, categories: int) -> Tensor:
    """Whether an image has a label of a category, bool [b, k], from whether it has each label, bool [b, l]."""
    found = torch.zeros(len(has_label), categories, dtype=torch.int64, device=primary.device)
    return found.index_add_(1, primary, has_label.long()) > 0


def iou(counts: Counts, primary: Tensor) -> Tensor:
    """Intersection over union of each unit and label over all images, float64 [u, l].

    The unit's area is that in images where the label's category counts.
    """
    together = counts.intersections.double()
    union = counts.category_areas[:, primary] + counts.label_pixels - counts.intersections
    return together / (union.double() + EPSILON)
