"""Counting, for all units and all labels at once, the pixels at which a unit is active and a label holds.

A unit is active at the pixels of a mask where its feature map, upsampled to the mask bilinearly (half-pixel centres,
edges repeated), exceeds the unit's threshold. Those pixels are few, about 1 in 200, and this is what makes it fast:
between four neighbouring cells of the map the upsampled value never exceeds the largest of the four, so only the
*patches* of pixels between cells of which one exceeds the threshold are looked at, of those only the rows of which one
end does, and only the pixels above the threshold are looked up in the masks.

    cells of the map            the patch between a, b, c, d:  all pixels whose four neighbours they are
      a ─ b                     edges: the map is continued by a repeated border, so a map of h x w cells
      │ ▒ │                     has (h + 1) x (w + 1) patches
      c ─ d

Two rules say in which images a category counts, that is, which of a unit's active pixels go into the denominator:

- `lite` (NetDissect-Lite, and papers after it): images in which a label of the category lies under the unit's mask.
- `original` (NetDissect): images that are annotated with the category at all. The IoU is never larger.

Shapes: b images, u units, h x w cells, sh x sw pixels of a mask, c pixel layers, l labels, k categories, q combinations
of labels in one image; n patches, m active pixels. Counts are whole numbers, int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Presence = Literal["lite", "original"]

PRESENCES: tuple[Presence, ...] = ("lite", "original")
EPSILON = 1e-10
# How the pixels of masks are kept, the smallest that will do.
PIXELS = (np.uint8, np.int16, np.int32)
_TABLE = 2**22  # entries of a table that is small enough in any case


@dataclass(frozen=True)
class Counts:
    """Sums over all images so far.

    Attributes:
        intersections: active pixels with a label, [u, l]; once per pixel layer in which the label holds.
        areas: active pixels, [u].
        category_areas: active pixels in images where a category counts, [u, k].
        label_pixels: pixels with a label, [l].
    """

    intersections: Tensor
    areas: Tensor
    category_areas: Tensor
    label_pixels: Tensor

    @classmethod
    def zeros(cls, units: int, labels: int, categories: int, device: torch.device | str = "cpu") -> Counts:
        """Return the counts before the first image."""
        shapes = ((units, labels), (units,), (units, categories), (labels,))
        return cls(*(torch.zeros(shape, dtype=torch.int64, device=device) for shape in shapes))

    def cpu(self) -> Counts:
        """Copy to main memory."""
        parts = (self.intersections, self.areas, self.category_areas, self.label_pixels)
        return Counts(*(part.cpu() for part in parts))


class Annotation(NamedTuple):
    """The annotation of one image, in little space: each pixel points to its *combination* of labels.

    An image has few of them, so that one look-up per active pixel finds the labels of all layers.

    Attributes:
        size: (sh, sw).
        pixels: combination of each pixel, uint8, int16 or int32 [sh * sw].
        labels: of each combination and pixel layer, int64 [q, c]; 0 is none, and the first combination has none.
        counts: pixels of each combination, int64 [q].
        scalars: labels of the image as a whole, int64 [any].
    """

    size: tuple[int, int]
    pixels: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    scalars: np.ndarray

    @classmethod
    def of(cls, pixels: Tensor, scalars: Sequence[int]) -> Annotation:
        """Pack pixel layers [c, sh, sw] of label numbers and whole-image labels."""
        layers = pixels.flatten(1).numpy()
        combination = np.zeros(layers.shape[1], np.int64)
        labels = np.zeros((1, 0), np.int64)
        for layer in layers:
            place, numbers = _renumbered(layer)
            combination, pairs = _renumbered(combination * len(numbers) + place)
            before, number = np.divmod(pairs, len(numbers))
            labels = np.concatenate([labels[before], numbers[number, None]], 1)
        counts = np.bincount(combination, minlength=len(labels))
        small = next(kind for kind in PIXELS if len(labels) <= np.iinfo(kind).max + 1)
        size = pixels.shape[1], pixels.shape[2]
        return cls(size, combination.astype(small), labels, counts, np.array(scalars, np.int64))


def _renumbered(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Renumber whole numbers from 0 without gaps, in their order; 0 stays. Return them, and what each was."""
    present = np.bincount(numbers, minlength=1) > 0
    present[0] = True
    return (present.cumsum() - 1)[numbers], np.flatnonzero(present)


class Masks(NamedTuple):
    """The annotations of b images with masks of one size; as in `Annotation`, padded with 0.

    Attributes:
        size: (sh, sw).
        pixels: [b * sh * sw].
        labels: [b, q, c].
        counts: [b, q].
        scalars: image and label of each whole-image label, [2, any].
    """

    size: tuple[int, int]
    pixels: Tensor
    labels: Tensor
    counts: Tensor
    scalars: Tensor

    @classmethod
    def of(cls, annotations: Sequence[Annotation]) -> Masks:
        """Batch annotations."""
        most, layers = np.max([a.labels.shape for a in annotations], axis=0)
        labels = np.zeros((len(annotations), most, layers), np.int64)
        counts = np.zeros((len(annotations), most), np.int64)
        for i, a in enumerate(annotations):
            labels[i, : a.labels.shape[0], : a.labels.shape[1]] = a.labels
            counts[i, : len(a.counts)] = a.counts
        pixels = np.concatenate([a.pixels for a in annotations])
        image = np.repeat(np.arange(len(annotations)), [len(a.scalars) for a in annotations])
        scalars = np.stack([image, np.concatenate([a.scalars for a in annotations])])
        return cls(annotations[0].size, *map(torch.from_numpy, (pixels, labels, counts, scalars)))

    def to(self, device: torch.device | str) -> Masks:
        """Copy to another device."""
        return Masks(self.size, *(tensor.to(device) for tensor in self[1:]))


class _Bands(NamedTuple):
    """How one axis of a map becomes that of a mask: bands of pixels between neighbouring cells.

    Attributes:
        low: lower cell of each band, [h + 1].
        high: higher cell of each band, [h + 1].
        weight: of the high cell at each pixel of the band, float64 [h + 1, s]; NaN, which exceeds nothing, pads bands
            of fewer than s pixels.
        start: first pixel of each band, [h + 1].
        pixels: number of pixels of each band, [h + 1].
        per_cell: pixels from one cell to the next.
    """

    low: Tensor
    high: Tensor
    weight: Tensor
    start: Tensor
    pixels: Tensor
    per_cell: float

    def to(self, device: torch.device) -> _Bands:
        """Copy to another device."""
        low, high, weight, start, pixels = (tensor.to(device) for tensor in self[:5])
        return _Bands(low, high, weight, start, pixels, self.per_cell)


def _bands(cells: int, pixels: int) -> _Bands:
    centre = (torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / pixels - 0.5
    band = centre.floor().long() + 1
    counts = torch.bincount(band, minlength=cells + 1)
    start = counts.cumsum(0) - counts
    weight = torch.full((cells + 1, int(counts.max())), torch.nan, dtype=torch.float64)
    weight[band, torch.arange(pixels) - start[band]] = centre - centre.floor()
    edges = torch.arange(-1, cells)
    return _Bands(edges.clamp(min=0), (edges + 1).clamp(max=cells - 1), weight, start, counts, pixels / cells)


@lru_cache(maxsize=64)
def _axes(cells: tuple[int, int], pixels: tuple[int, int], device: torch.device) -> tuple[_Bands, _Bands]:
    """Return the bands of rows and of columns."""
    rows, columns = (_bands(*pair) for pair in zip(cells, pixels, strict=True))
    return rows.to(device), columns.to(device)


class Active(NamedTuple):
    """The active pixels of b images.

    Attributes:
        image: image of each pair of image and unit that has a patch to examine, [pairs].
        unit: unit of each pair, [pairs].
        area: active pixels of each pair, [pairs].
        pair: index of each pixel into these, ascending, [m].
        pixel: image * sh * sw + place in the mask, [m].
    """

    image: Tensor
    unit: Tensor
    area: Tensor
    pair: Tensor
    pixel: Tensor


def active_pixels(activations: Tensor, thresholds: Tensor, size: tuple[int, int]) -> Active:
    """Find where the upsampled maps exceed the thresholds.

    Between two cells the value is `low + weight * (high - low)`, which between equal cells is exactly theirs.

    Args:
        activations: of a batch, float [b, u, h, w].
        thresholds: float64 [u].
        size: (sh, sw), pixels of a mask.
    """
    units, height, width = activations.shape[1:]
    rows, columns = _axes((height, width), size, activations.device)
    source, row, column = _active_patches(activations, thresholds)
    pairs, pair = source.unique_consecutive(return_inverse=True)
    image = pairs.div(units, rounding_mode="floor")
    unit = pairs - image * units
    limit = thresholds.index_select(0, unit).index_select(0, pair)

    # The left and right end of each row of pixels of each patch, [n, s]; rows of which one end is active are strips.
    origin, cells = source * (height * width), activations.reshape(-1)
    left, right = (
        _between(cells, origin + x.index_select(0, column), width, rows, row) for x in (columns.low, columns.high)
    )
    deep, kind = left.shape[1], _numbers(activations.shape, size)
    strip = flat_nonzero(torch.maximum(left, right) > limit[:, None]).to(kind)
    patch = _over(strip, deep)
    left, right = left.view(-1).index_select(0, strip), right.view(-1).index_select(0, strip)
    # The number of each patch's first pixel.
    first = image.index_select(0, pair) * (size[0] * size[1])
    first += rows.start.index_select(0, row) * size[1] + columns.start.index_select(0, column)
    first, column, pair = (part.to(kind).index_select(0, patch) for part in (first, column, pair))
    start, length = _above(left, right, limit.index_select(0, patch), columns, column)

    # A pixel's number is that of its strip's first active one, and how many of the strip come before it.
    first += (strip - patch * deep) * size[1] + start + length - length.cumsum(0, dtype=kind)
    of = torch.repeat_interleave(length)
    pixel = first.index_select(0, of).add_(torch.arange(len(of), dtype=kind, device=of.device))
    area = torch.zeros_like(image).index_add_(0, pair, length.long())
    return Active(image, unit, area, pair.index_select(0, of), pixel)


def _above(left: Tensor, right: Tensor, limit: Tensor, columns: _Bands, column: Tensor) -> tuple[Tensor, Tensor]:
    """Find the pixels of strips that exceed the limit: the first one in its strip, and their number; [n] each.

    From one end of a strip to the other the values rise or fall, after rounding too (both the product and the sum are
    monotonic), so the active pixels are all those on one side of an `edge`. Where the edge is follows from a division,
    but for rounding: the values at both sides of it decide, and strips where they say otherwise are looked at whole.

    Args:
        left, right: float64 [n]. One of them exceeds the limit.
        limit: float64 [n].
        columns, column: the bands, and that of each strip, [n]. Its type is that of the results.
    """
    pixels, rise, falls = columns.pixels.to(column.dtype).index_select(0, column), right - left, left > right
    table = columns.weight.nan_to_num(torch.inf)
    # Pixels that are not there, before and behind the strip, are infinitely far.
    fence = torch.nn.functional.pad(torch.nn.functional.pad(table, (0, 1), value=torch.inf), (1, 0), value=-torch.inf)
    edge = (limit - left).div_(rise).sub_(table[:, 0].index_select(0, column)).mul_(columns.per_cell)
    edge = edge.ceil_().clamp_(min=0).minimum(pixels).to(column.dtype)

    place = column * fence.shape[1] + edge
    before, behind = (
        torch.addcmul(left, fence.view(-1).index_select(0, at), rise) > limit for at in (place, place + 1)
    )
    odd = flat_nonzero((before != falls) | (behind == falls))
    rest = columns.weight.index_select(0, column.index_select(0, odd))
    values = torch.addcmul(left.index_select(0, odd)[:, None], rest, rise.index_select(0, odd)[:, None])
    above = (values > limit.index_select(0, odd)[:, None]).sum(1, dtype=edge.dtype)
    edge[odd] = torch.where(falls.index_select(0, odd), above, pixels.index_select(0, odd) - above)
    return torch.where(falls, 0, edge), torch.where(falls, edge, pixels - edge)


def _active_patches(activations: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the patches of which a cell exceeds the threshold: image * u + unit, band of rows and of columns; [n] each.

    The cell (y, x) belongs to the patches (y, x), (y, x + 1), (y + 1, x) and (y + 1, x + 1).
    """
    height, width = activations.shape[2:]
    across, patches = width + 1, (height + 1) * (width + 1)
    above = activations.flatten(2) > _below(thresholds, activations.dtype)[:, None]
    cell = flat_nonzero(above)
    line = _over(cell, width)
    source = _over(line, height)
    patch = cell + line + source * across  # a map has one patch more than cells per row, and one row more
    active = torch.zeros(activations[..., 0, 0].numel() * patches, dtype=torch.bool, device=cell.device)
    for offset in (0, 1, across, across + 1):
        active[patch + offset] = True
    patch = flat_nonzero(active)
    source = _over(patch, patches)
    place = patch - source * patches
    row = _over(place, across)
    return source, row, place - row * across


def _between(cells: Tensor, origin: Tensor, width: int, rows: _Bands, row: Tensor) -> Tensor:
    """Interpolate the pixels of a band of rows, in the columns of the cells that begin at `origin`, [n, s]."""
    weight = rows.weight.index_select(0, row)
    low, high = (
        cells.index_select(0, origin + y.index_select(0, row) * width).to(weight.dtype)[:, None]
        for y in (rows.low, rows.high)
    )
    return torch.addcmul(low, weight, high - low)


def flat_nonzero(mask: Tensor) -> Tensor:
    """Return the indices of what is not 0 in the flattened tensor; on the CPU by NumPy, several times faster."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().squeeze(1)


def _over(numbers: Tensor, divisor: int) -> Tensor:
    """Divide whole numbers from 0 and round down; by a power of two as a shift, which is much faster."""
    if divisor & (divisor - 1) == 0:
        return numbers >> (divisor.bit_length() - 1)
    return numbers.div(divisor, rounding_mode="floor")


def _numbers(maps: Sequence[int], size: tuple[int, int]) -> torch.dtype:
    """Return the smaller of two types that holds the numbers of all patches, strips and pixels."""
    images, units, height, width = maps
    most = images * units * (size[0] + height + 1) * (size[1] + width + 1)
    return torch.int32 if most < 2**31 else torch.int64


def _below(thresholds: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the thresholds in the activations' precision, rounded down: `x > t` is the same for every such x."""
    rounded = thresholds.to(dtype)
    lower = torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))
    return torch.where(rounded.double() > thresholds, lower, rounded)


def add(
    counts: Counts, activations: Tensor, thresholds: Tensor, masks: Masks, primary: Tensor, presence: Presence
) -> None:
    """Add the counts of a batch to `counts`.

    Args:
        counts: what came before; changed in place.
        activations: of the images of `masks`, float [b, u, h, w].
        thresholds: float64 [u].
        masks: the annotations.
        primary: category in which each label counts, int64 [l].
        presence: in which images a category counts; see the module.
    """
    labels, categories = counts.intersections.shape[1], counts.category_areas.shape[1]
    active = active_pixels(activations, thresholds, masks.size)
    area = active.area
    pair, numbers, amount = _overlaps(active, masks)
    _count(counts.intersections.view(-1), active.unit.index_select(0, pair)[:, None] * labels + numbers, amount)
    _count(counts.label_pixels, masks.labels, masks.counts)

    per_image = torch.zeros(activations.shape[:2], dtype=torch.int64, device=area.device)
    per_image[active.image, active.unit] = area
    image, whole = masks.scalars
    counts.intersections.index_add_(1, whole, per_image.index_select(0, image).T)
    counts.label_pixels.index_add_(0, whole, torch.full_like(whole, masks.size[0] * masks.size[1]))
    counts.areas.add_(per_image.sum(0))
    # "No label" is none.
    counts.intersections[:, 0] = 0
    counts.label_pixels[0] = 0

    category = primary.clone()
    category[0] = categories  # that of "no label": a column of its own, which is left out
    in_image = torch.zeros(len(masks.labels), categories + 1, dtype=torch.bool, device=area.device)
    in_image[image, category[whole]] = True
    if presence == "original":
        in_image.scatter_(1, category[masks.labels].flatten(1), True)
    counted = in_image.index_select(0, active.image)
    if presence == "lite":
        place = pair[:, None] * (categories + 1) + category[numbers]
        counted.view(-1).index_fill_(0, place.view(-1), True)
    counts.category_areas.index_add_(0, active.unit, counted[:, :categories] * area[:, None])


def _count(table: Tensor, places: Tensor, amounts: Tensor) -> None:
    """Add an amount [...] to each of its places [..., c] in a table."""
    table.index_add_(0, places.reshape(-1), amounts[..., None].expand_as(places).reshape(-1))


def _overlaps(active: Active, masks: Masks) -> tuple[Tensor, Tensor, Tensor]:
    """Find the labels under active pixels: pair of image and unit [n], labels [n, c], number of pixels [n]."""
    most = masks.labels.shape[1]
    places = len(active.image) * most
    pair = active.pair if places < 2**31 else active.pair.long()
    keys = torch.add(masks.pixels.index_select(0, active.pixel), pair, alpha=most)
    if places <= max(_TABLE, 4 * len(keys)):
        table = torch.bincount(keys, minlength=places)
        keys = flat_nonzero(table.bool())
        amount = table.index_select(0, keys)
    else:  # so many combinations that sorting takes less than a table of all of them
        keys, amount = keys.long().unique(return_counts=True)
    pair = _over(keys, most)
    place = active.image.index_select(0, pair) * most + (keys - pair * most)
    return pair, masks.labels.flatten(0, 1).index_select(0, place), amount


def iou(counts: Counts, primary: Tensor) -> Tensor:
    """Return the intersection over union of each unit and label over all images, float64 [u, l].

    The unit's area is that in images where the label's category counts.
    """
    together = counts.intersections.double()
    union = counts.category_areas[:, primary] + counts.label_pixels - counts.intersections
    return together / (union.double() + EPSILON)
