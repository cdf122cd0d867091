"""Cells: generated images of ten classes in which it is known which pixels tell the class.

After the synthetic data of Tjoa and Guan: same classes, geometry, colours and backgrounds as their published settings,
whose pixels are those of a 512 x 512 image; at another side the same image is drawn coarser or finer. Ours are: classes
in turn instead of at random, masks without the soft rim of an interpolated rotation, noise that is interpolated on a
grid of our own, and images that seed, split and index alone decide.

Shapes: n images of s x s pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from introspect.core.seeds import derived_seed

Floats = NDArray[np.floating[Any]]
Whole = NDArray[np.int64]

CELL_NAMES = (
    "round cell", "cell with bar", "cell with bar and pole",
    "red rectangle", "green rectangle", "blue rectangle",
    "cell with tail", "cell with three tails", "cell with eight tails",
    "nothing",
)  # fmt: skip
KINDS = (0, 0, 0, 1, 1, 1, 2, 2, 2, 3)  # groups of similar classes; ours
LOCAL, TELLING = 0.4, 0.9

_SIDE = 512.0  # pixels, in which all lengths are given
_BARRED, _POLED, _RED, _BLUE, _TAILED, _NOTHING = 1, 2, 3, 5, 6, 9
_TAILS = {6: 1, 7: 3, 8: 8}
_INNER, _BORDER, _MARK = 1, 2, 3
_LEAST_TAIL = 0.003  # fraction of the pixels of class 6 that its tail must cover
_ATTEMPTS = 100
_REACH, _GRID = 350.0, 24  # of the edges' noise around the centre, and how finely it is drawn at most
_PIXELS = 2**22  # painted at a time

# Class by region (nothing, inner, border, mark): how much it matters.
_TRUTH = np.zeros((len(CELL_NAMES), 4), np.float32)
_TRUTH[:_NOTHING, _INNER:] = LOCAL
_TRUTH[[0, 3, 4, 5], _BORDER] = TELLING
_TRUTH[[1, 2, 6, 7, 8], _MARK] = TELLING

# Uniform numbers of an image: lengths in pixels of 512, angles in degrees, colours from 0 to 1.
_UNIFORM: dict[str, tuple[float, float, int]] = {
    "radius": (90, 110, 1), "thickness": (10, 30, 1), "stretch": (0.5, 1.5, 1), "size": (100, 200, 2),
    "bar": (10, 30, 1), "pole": (5, 40, 1), "noise": (6, 12, 1), "period": (31, 64, 1), "turn": (-60, 60, 1),
    "center": (-0.33, 0.33, 2), "border": (0.5, 0.9, 3), "dark": (0.1, 0.3, 2), "blue": (0.3, 0.5, 1),
    "main": (0.6, 0.9, 1), "other": (0.0, 0.2, 3), "ground": (0, 3, 1), "rings": (1e-4, 1e-3, 3),
    "focus": (-0.25, 0.25, 2),
}  # fmt: skip


class DrawnCells(NamedTuple):
    """Images and what matters in them.

    Attributes:
        images: RGB, uint8 [n, 3, s, s].
        classes: places in `CELL_NAMES`, int64 [n].
        truth: float32 [n, s, s]: 0.9 where something tells the class (the border of a round cell or a rectangle, else
            bars, pole or tails), 0.4 on the rest of the object, 0 elsewhere. The last class has 0 everywhere.
    """

    images: Tensor
    classes: Tensor
    truth: Tensor


def draw_cells(split: str, seed: int, indices: Sequence[int] | Tensor, side: int = 64) -> DrawnCells:
    """Draw the images of these indices; the same for an index, whatever else is drawn with it."""
    wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
    step = max(1, _PIXELS // side**2)
    parts = [_paint(split, seed, wanted[first : first + step], side) for first in range(0, max(1, len(wanted)), step)]
    return DrawnCells(*(torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True)))


def _paint(split: str, seed: int, indices: Whole, side: int) -> tuple[NDArray[np.uint8], Whole, Floats]:
    classes = indices % len(CELL_NAMES)
    numbers = _Numbers.of(split, seed, indices, np.zeros_like(indices))
    regions = _regions(numbers, classes, side)
    for attempt in range(1, _ATTEMPTS):  # a tail that lies outside the picture tells nothing
        hidden = (classes == _TAILED) & ((regions == _MARK).mean((1, 2)) < _LEAST_TAIL)
        if not hidden.any():
            break
        again = _Numbers.of(split, seed, indices[hidden], np.full(hidden.sum(), attempt))
        numbers.replace(hidden, again)
        regions[hidden] = _regions(again, classes[hidden], side)
    colors = _palette(numbers, classes)[np.arange(len(classes))[:, None, None], regions]  # [n, s, s, 3]
    pixels = np.where((regions > 0)[..., None], colors, _grounds(numbers, side)).transpose(0, 3, 1, 2)
    images = np.ascontiguousarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
    return images, classes, _TRUTH[classes[:, None, None], regions]


class _Numbers:
    """The random numbers of some images: `values` [n, count] by the names of `_UNIFORM`, and grids of noise."""

    def __init__(self, values: dict[str, Floats], grids: dict[str, Floats]) -> None:
        self.values, self.grids = values, grids

    @classmethod
    def of(cls, split: str, seed: int, indices: Whole, attempts: Whole) -> _Numbers:
        key = derived_seed("cells", seed, split, size=16, order="little")
        count = sum(each for *_, each in _UNIFORM.values())
        shapes = {"edge": (3, _GRID, _GRID), "blocks": (3, 8, 8), "grain": (3, 16, 16)}
        uniform = np.empty((len(indices), count), np.float32)
        grids = {name: np.empty((len(indices), *shape), np.float32) for name, shape in shapes.items()}
        for row, (index, attempt) in enumerate(zip(indices.tolist(), attempts.tolist(), strict=True)):
            source = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, attempt, index]))
            uniform[row] = source.random(count)
            grids["edge"][row] = source.standard_normal(shapes["edge"])
            grids["blocks"][row] = source.uniform(0.2, 0.7, shapes["blocks"])
            grids["grain"][row] = source.uniform(-0.3, 0.3, shapes["grain"])
        values, taken = {}, 0
        for name, (low, high, each) in _UNIFORM.items():
            values[name] = low + (high - low) * uniform[:, taken : taken + each]
            taken += each
        return cls(values, grids)

    def replace(self, rows: NDArray[np.bool_], others: _Numbers) -> None:
        """Put the numbers of others into the rows."""
        for own, new in ((self.values, others.values), (self.grids, others.grids)):
            for name, array in new.items():
                own[name][rows] = array

    def wide(self, name: str, place: int = 0) -> Floats:
        """One number per image, [n, 1, 1]."""
        return self.values[name][:, place, None, None]


def _lattice(side: int) -> tuple[Floats, Floats]:
    """Right and up of each pixel from the middle of the picture, [1, 1, s] and [1, s, 1]."""
    axis = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5) * np.float32(_SIDE)
    return axis[None, None, :], -axis[None, :, None]


def _regions(numbers: _Numbers, classes: Whole, side: int) -> Whole:
    """What lies at each pixel: nothing, inner, border or mark (bar, pole, tail), int64 [n, s, s]."""
    value = numbers.wide
    right, up = _lattice(side)
    right, up = right - value("center") * _SIDE, up - value("center", 1) * _SIDE
    turn = np.deg2rad(value("turn"))
    x, y = np.cos(turn) * right + np.sin(turn) * up, np.cos(turn) * up - np.sin(turn) * right
    place = [((part.clip(-_REACH, _REACH) + _REACH) / value("period")) for part in (x, y)]
    n0, n1, n2 = (_smooth(numbers.grids["edge"][:, k], *place) * value("noise") for k in range(3))
    radius, thickness, stretch = value("radius"), value("thickness"), value("stretch")
    kind = classes[:, None, None]
    is_rectangle = (kind >= _RED) & (kind <= _BLUE)
    # How far inside the outline: of a circle along its radius, of a rectangle to its nearest side.
    rounded = radius - (np.sqrt(x**2 + (y / stretch) ** 2) + n0)
    half = [value("size", k) / 2 for k in range(2)]
    boxed = np.minimum(half[0] - np.abs(x + n0), half[1] - np.abs(y + n1))
    depth = np.where(is_rectangle, boxed, rounded)
    regions = np.where(depth > thickness, _INNER, np.where(depth >= 0, _BORDER, 0))
    marked = _bars(numbers, kind, x + n1, y + n2) | _tails(numbers, kind, x + n1, y + n2)
    regions = np.where(marked, _MARK, regions)
    result: Whole = np.where(kind == _NOTHING, 0, regions).astype(np.int64)
    return result


def _bars(numbers: _Numbers, kind: Whole, x: Floats, y: Floats) -> NDArray[np.bool_]:
    value = numbers.wide
    bar = (np.abs(x) <= value("radius")) & (np.abs(y) <= value("bar") / 2)
    pole = (np.abs(y) <= value("radius") * value("stretch")) & (np.abs(x) <= value("pole") / 2)
    marked: NDArray[np.bool_] = ((kind == _BARRED) | (kind == _POLED)) & bar | (kind == _POLED) & pole
    return marked


def _tails(numbers: _Numbers, kind: Whole, x: Floats, y: Floats) -> NDArray[np.bool_]:
    """Strips that leave the cell at even angles, from within its border."""
    value = numbers.wide
    length = value("radius") * value("stretch")
    marked = np.zeros(x.shape, bool)
    for tailed, count in _TAILS.items():
        rows = (kind == tailed)[:, 0, 0]
        for angle in np.arange(count) * (2 * np.pi / count) if rows.any() else ():
            across = np.cos(angle) * x[rows] - np.sin(angle) * y[rows]
            along = np.sin(angle) * x[rows] + np.cos(angle) * y[rows]
            reach = 1.5 * length[rows] + value("thickness")[rows]
            strip = (np.abs(across) <= value("bar")[rows] / 2) & (along >= 0.8 * length[rows]) & (along <= reach)
            marked[rows] |= strip
    return marked


def _palette(numbers: _Numbers, classes: Whole) -> Floats:
    """The colour of each region, [n, 4, 3]."""
    values = numbers.values
    border = values["border"].copy()
    is_rectangle = (classes >= _RED) & (classes <= _BLUE)
    border[is_rectangle] = values["other"][is_rectangle]
    border[is_rectangle, classes[is_rectangle] - _RED] = values["main"][is_rectangle, 0]
    inner = np.concatenate([values["dark"], values["blue"]], 1)
    mark = border * np.where(np.isin(classes, list(_TAILS)), 0.75, 1.0)[:, None]
    palette: Floats = np.stack([np.zeros_like(inner), inner, border, mark], 1)
    return palette


def _grounds(numbers: _Numbers, side: int) -> Floats:
    """What is behind the object, [n, s, s, 3]: nothing, blocks of colour or rings."""
    kind = numbers.values["ground"].astype(np.int64).clip(0, 2)[:, 0]
    pixels = np.zeros((len(kind), side, side, 3), np.float32)
    blocks, rings = kind == 1, kind == 2
    right, up = _lattice(side)
    focus = numbers.values["focus"][rings, :, None, None] * _SIDE
    distance = np.sqrt((right - focus[:, 0]) ** 2 + (up - focus[:, 1]) ** 2)
    for channel in range(3):
        pixels[blocks, ..., channel] = _smooth(numbers.grids["blocks"][blocks, channel], *_over(side, 8))
        grain = _smooth(numbers.grids["grain"][rings, channel], *_over(side, 16))
        pace = numbers.values["rings"][rings, channel, None, None] * (180 / np.pi)
        pixels[rings, ..., channel] = 0.25 * (np.sin(pace * distance * (1 + grain)) + 1)
    return pixels


def _over(side: int, cells: int) -> tuple[Floats, Floats]:
    """Where each pixel of the picture lies in a grid that covers it, in cells: [1, 1, s] and [1, s, 1]."""
    place = ((np.arange(side, dtype=np.float32) + 0.5) / side * cells - 0.5).clip(0, cells - 1)
    return place[None, None, :], place[None, :, None]


def _smooth(grid: Floats, x: Floats, y: Floats) -> Floats:
    """A grid [n, g, g] at places in units of its cells, [n or 1, …], interpolated between four of its numbers."""
    count, side = grid.shape[0], grid.shape[-1]
    x, y = np.broadcast_arrays(x, y)
    shape = (count, *x.shape[1:])
    left, low = (part.astype(np.int64).clip(0, side - 2) for part in (x, y))
    part, share = (x - left).clip(0, 1), (y - low).clip(0, 1)
    flat, pixels = grid.reshape(count, side * side), int(np.prod(shape[1:]))
    first = np.broadcast_to(low * side + left, shape).reshape(count, pixels)
    corners = [np.take_along_axis(flat, first + step, 1).reshape(shape) for step in (0, 1, side, side + 1)]
    upper = corners[0] * (1 - part) + corners[1] * part
    lower = corners[2] * (1 - part) + corners[3] * part
    smooth: Floats = upper * (1 - share) + lower * share
    return smooth
