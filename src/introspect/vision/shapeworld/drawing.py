"""Painting the images of shapeworld, back to front.

Shapes: n images of s x s pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from introspect.core.errors import InputError
from introspect.core.seeds import derived_seed
from introspect.vision.shapeworld.things import (
    ACCENT,
    BODY,
    CLASS_NAMES,
    COLOR_NAMES,
    COLORS,
    FAMILY_NAMES,
    FAMILY_OF,
    MATERIALS,
    PARTS,
    PLACES,
    TEXTURES,
    TIMES,
    Part,
    first_number,
    number,
)

Split = Literal["train", "validation", "test"]
Floats = NDArray[np.floating[Any]]  # float32, if nothing else is said
Numbers = NDArray[np.uint8]

SPLITS: tuple[Split, ...] = get_args(Split)
_CHUNK = 128  # images that are drawn at a time


class Drawn(NamedTuple):
    """Images and all that is in them.

    Attributes:
        images: RGB, uint8 [n, 3, s, s].
        classes: places in `CLASS_NAMES`, int64 [n].
        pixels: label numbers, uint8 [n, 6, s, s]; `LAYERS` says what each layer holds.
        scenes: label numbers, int64 [n].
    """

    images: Tensor
    classes: Tensor
    pixels: Tensor
    scenes: Tensor


class Shapeworld:
    """The images of a split, drawn on first access.

    Args:
        split: train, validation or test.
        size: number of images.
        seed: which images.
        side: height and width of an image, pixels.

    Raises:
        InputError: an argument is impossible.
    """

    def __init__(self, *, split: Split, size: int, seed: int = 0, side: int = 48) -> None:
        if split not in SPLITS:
            raise InputError(f"shapeworld: split={split}: expected {', '.join(SPLITS)}")
        if size < 1 or side < 8:
            raise InputError(f"shapeworld: size={size}, side={side}: expected at least 1 image of 8 pixels")
        self.split: Split = split
        self.size, self.seed, self.side = size, seed, side

    def __len__(self) -> int:
        return self.size

    @property
    def drawn(self) -> Drawn:
        """All images with their labels; the last few worlds of a process are kept."""
        return _all(self.split, self.seed, self.size, self.side)

    @property
    def images(self) -> Tensor:
        """See `Drawn`."""
        return self.drawn.images

    @property
    def classes(self) -> Tensor:
        """See `Drawn`."""
        return self.drawn.classes


@lru_cache(maxsize=6)
def _all(split: Split, seed: int, size: int, side: int) -> Drawn:
    return draw(split, seed, 0, size, side)


def draw(split: Split, seed: int, start: int, stop: int, side: int = 48) -> Drawn:
    """Draw the images of a split from index `start` to before `stop`; image i is the same in every range."""
    chunks = [
        _Canvas(split, seed, first, min(first + _CHUNK, stop), side).paint() for first in range(start, stop, _CHUNK)
    ]
    return Drawn(*(torch.from_numpy(np.concatenate(parts)) for parts in zip(*chunks, strict=True)))


class _Dice:
    """Uniform numbers from 0 to 1 that only seed, split, purpose and index decide; each call takes the next ones."""

    def __init__(self, split: str, seed: int, purpose: str, start: int, stop: int, each: int) -> None:
        key = derived_seed("shapeworld", seed, split, purpose, size=16, order="little")
        each += -each % 4  # a step of the generator gives four numbers
        source = np.random.Philox(key=key).advance(start * each // 4)
        self._numbers = np.random.Generator(source).random((stop - start, each))
        self._taken = 0

    def __call__(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> Floats:
        """A number per image, or an array: [n, *shape]."""
        count = int(np.prod(shape))
        chosen = self._numbers[:, self._taken : self._taken + count]
        assert chosen.shape[1] == count, "too few numbers were asked for"
        self._taken += count
        values: Floats = (low + (high - low) * chosen).astype(np.float32).reshape(-1, *shape)
        return values

    def below(self, count: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """A whole number from 0 to below `count` per image."""
        return (self() * count).astype(np.int64).clip(0, np.asarray(count) - 1)


@dataclass(frozen=True)
class _Shapes:
    """The parts of all classes as arrays: numbers [class, place, 7] in the order of `Part`, 0 where there is none."""

    geometry: Floats
    label: NDArray[np.int64]
    paint: NDArray[np.int64]

    @classmethod
    def of(cls, classes: tuple[tuple[Part, ...], ...]) -> _Shapes:
        most = max(map(len, classes))
        geometry = np.zeros((len(classes), most, 7), np.float32)
        label, paint = (np.zeros((len(classes), most), np.int64) for _ in range(2))
        for row, parts in enumerate(classes):
            for place, part in enumerate(parts):
                geometry[row, place] = part[1:8]
                label[row, place], paint[row, place] = number("part", part.name), part.paint
        return cls(geometry, label, paint)


class _Canvas:
    """A few images while they are painted: [n, s, s] per quantity, back to front."""

    def __init__(self, split: Split, seed: int, start: int, stop: int, side: int) -> None:
        self.n, self.side = stop - start, side
        self.dice = _Dice(split, seed, "things", start, stop, 256)
        self.noise = _Dice(split, seed, f"noise {side}", start, stop, 4 * side * side)
        self.classes = np.arange(start, stop) % len(CLASS_NAMES)
        axis = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
        self.x, self.y = axis[None, None, :], -axis[None, :, None]  # right and up, from -1 to 1
        plane = (self.n, side, side)
        self.coats: list[tuple[NDArray[np.int64], Floats]] = []
        self.coat, self.shade = np.zeros(plane, np.uint8), np.ones(plane, np.float32)
        self.layers = {name: np.zeros(plane, np.uint8) for name in ("part", "material", "texture")}

    def paint(self) -> tuple[Numbers, NDArray[np.int64], Numbers, NDArray[np.int64]]:
        """The arrays of `Drawn`."""
        place, time = self._scene()
        self._clutter()
        self._thing(_GROUNDS[place], _SKIES[time])
        scenes = place * len(TIMES) + time
        rgb, color = self._coated()
        light = np.array([light for _, light in TIMES.values()], np.float32)[scenes % len(TIMES)]
        grain = self.noise(-0.5, 0.5, (3, self.side, self.side)) * self.dice(0.04, 0.16)[:, None, None, None]
        image = rgb * (light * self.dice(0.75, 1.1)[:, None])[:, :, None, None] + grain
        images = (image.clip(0, 1) * 255).round().astype(np.uint8)
        family, kind = (np.where(self.layers["part"] > 0, label, 0).astype(np.uint8) for label in self._objects())
        masks = np.stack([color, family, kind, *(self.layers[name] for name in ("part", "material", "texture"))], 1)
        return images, self.classes, masks, scenes + first_number("scene")

    def _objects(self) -> Iterator[NDArray[np.int64]]:
        first = first_number("object")
        yield (first + FAMILY_OF[self.classes])[:, None, None]
        yield (first + len(FAMILY_NAMES) + self.classes)[:, None, None]

    def _scene(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sky and ground; the place and the time of each image."""
        homes = _HOMES[FAMILY_OF[self.classes]]
        at_home = self.dice() < 0.5
        home = homes[np.arange(self.n), self.dice.below((homes >= 0).sum(1))]
        place = np.where(at_home, home, self.dice.below(len(PLACES)))
        time = self.dice.below(len(TIMES))
        horizon, slope = self.dice(-0.5, 0.4), self.dice(-0.2, 0.2)
        below = self.y < _wide(horizon) + _wide(slope) * self.x
        self._fill(~below, _SKIES[time])
        shade = 1.0 - self.dice(0.15, 0.45)[:, None, None] * self._textures(below)
        self._fill(below, _GROUNDS[place], shade)
        return place, time

    def _textures(self, where: NDArray[np.bool_]) -> Floats:
        """The ground's pattern, from 0 to 1; three in ten grounds are plain."""
        texture = np.where(self.dice() < 0.7, self.dice.below(len(TEXTURES)), -1)
        turn, period = self.dice(0, np.pi), self.dice(0.2, 0.36)
        across = (np.cos(_wide(turn)) * self.x + np.sin(_wide(turn)) * self.y) / _wide(period)
        along = (np.cos(_wide(turn)) * self.y - np.sin(_wide(turn)) * self.x) / _wide(period)
        clouds, grains = self._clouds(), self.noise(0, 1, (self.side, self.side))
        pattern = np.zeros((self.n, self.side, self.side), np.float32)
        for kind, render in enumerate(_TEXTURE_PATTERNS):
            chosen = texture == kind
            pattern[chosen] = render(across[chosen], along[chosen], clouds[chosen], grains[chosen])
        numbers = np.where(texture >= 0, first_number("texture") + texture, 0)[:, None, None]
        self.layers["texture"] = np.where(where, numbers, 0).astype(np.uint8)
        return pattern

    def _clouds(self) -> Floats:
        """Smooth noise, from 0 to 1: a 5 x 5 grid, interpolated."""
        grid = self.dice(0, 1, (5, 5))
        place = (np.arange(self.side) + 0.5) / self.side * 4
        low = place.astype(np.int64).clip(0, 3)
        part = (place - low).astype(np.float32)
        rows = grid[:, low] * (1 - part)[:, None] + grid[:, low + 1] * part[:, None]
        smooth: Floats = rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
        return smooth

    def _clutter(self) -> None:
        """Three things that are nothing: patches of colour behind what matters."""
        for _ in range(3):
            x, y = self.dice(-1, 1), self.dice(-1, 1)
            width, height, turn = self.dice(0.06, 0.18), self.dice(0.06, 0.18), self.dice(0, np.pi)
            box = np.round(self.dice())
            zero = np.zeros(self.n, np.float32)
            inside = _inside(self.x, self.y, np.stack([x, y, width, height, box, zero, turn], 1))
            color = self.dice.below(len(COLOR_NAMES))
            self._fill(inside, color)
            self.layers["texture"][inside] = 0

    def _thing(self, ground: NDArray[np.int64], sky: NDArray[np.int64]) -> None:
        """What the image shows, where it stands, how it is turned and what it is made of."""
        size, turn = self.dice(0.6, 0.9), self.dice(-0.25, 0.25)
        right, up = self.x - _wide(self.dice(-0.2, 0.2)), self.y - _wide(self.dice(-0.2, 0.2))
        facing = np.where(self.dice() < 0.5, -1, 1).astype(np.float32)
        u = (np.cos(_wide(turn)) * right + np.sin(_wide(turn)) * up) / _wide(size * facing)
        v = (np.cos(_wide(turn)) * up - np.sin(_wide(turn)) * right) / _wide(size)
        paint = np.zeros((self.n, self.side, self.side), np.uint8)
        for place in range(_SHAPES.label.shape[1]):
            geometry, label = _SHAPES.geometry[self.classes, place].copy(), _SHAPES.label[self.classes, place]
            geometry[:, :2] += self.dice(-0.07, 0.07, (2,))
            geometry[:, 2:4] *= self.dice(0.8, 1.25, (2,))
            geometry[:, 6] += self.dice(-0.15, 0.15)
            inside = _inside(u, v, geometry) & (label > 0)[:, None, None]
            np.copyto(self.layers["part"], label.astype(np.uint8)[:, None, None], where=inside)
            np.copyto(paint, _SHAPES.paint[self.classes, place].astype(np.uint8)[:, None, None], where=inside)
        for coat in (BODY, ACCENT):
            material = self.dice.below(len(MATERIALS))
            shade = self._materials(material, u, v)
            # Any colour but those of ground and sky.
            color = self.dice.below(len(COLOR_NAMES) - 2)
            for taken in (np.minimum(ground, sky), np.maximum(ground, sky)):
                color = color + (color >= taken)
            covered = paint == coat
            self._fill(covered, color, shade)
            numbers = (first_number("material") + material).astype(np.uint8)
            np.copyto(self.layers["material"], numbers[:, None, None], where=covered)
            self.layers["texture"][covered] = 0

    def _materials(self, material: NDArray[np.int64], u: Floats, v: Floats) -> Floats:
        shade = np.empty((self.n, self.side, self.side), np.float32)
        clouds = self._clouds()
        for kind, render in enumerate(_MATERIAL_PATTERNS):
            chosen = material == kind
            shade[chosen] = render(u[chosen], v[chosen], clouds[chosen])
        return shade

    def _fill(self, where: NDArray[np.bool_], color: NDArray[np.int64], shade: Floats | None = None) -> None:
        """Put a coat of one colour per image, a little off, over pixels; times a shade per pixel."""
        self.shade = np.where(where, np.float32(1) if shade is None else shade, self.shade)
        np.copyto(self.coat, np.uint8(len(self.coats)), where=where)
        self.coats.append((color, _RGB[color] + self.dice(-0.06, 0.06, (3,))))

    def _coated(self) -> tuple[Floats, Numbers]:
        """The pixels, [n, 3, s, s], and the label of their colours, [n, s, s]."""
        colors, paints = (np.stack(values, 1) for values in zip(*self.coats, strict=True))
        image = np.arange(self.n)[:, None, None]
        channels = [paints[:, :, channel].astype(np.float32)[image, self.coat] for channel in range(3)]
        rgb: Floats = np.stack(channels, 1) * self.shade[:, None]
        return rgb, (first_number("color") + colors).astype(np.uint8)[image, self.coat]


def _wide(values: Floats) -> Floats:
    return values[:, None, None]


def _inside(x: Floats, y: Floats, geometry: Floats) -> NDArray[np.bool_]:
    """Which pixels at [n or 1, s, s] lie in a part per image, [n, 7] in the order of `Part`."""
    left, bottom, width, height, box, taper, turn = (_wide(column) for column in geometry.T)
    right, up = x - left, y - bottom
    high = (np.cos(turn) * up - np.sin(turn) * right) / np.maximum(height, 1e-6)
    wide = (np.cos(turn) * right + np.sin(turn) * up) / np.maximum(width * (1 - taper * high), 1e-6)
    wide, high = wide * wide, high * high
    inside: NDArray[np.bool_] = np.where(box > 0.5, np.maximum(wide, high), wide + high) <= 1
    return inside


def _zigzag(values: Floats) -> Floats:
    """From 0 to 1 and back, with period 1."""
    waves: Floats = np.abs(2 * (values - np.floor(values)) - 1)
    return waves


def _cell(values: Floats) -> Floats:
    """Place in a cell of width 1, from -1 to 1."""
    places: Floats = 2 * (values - np.floor(values)) - 1
    return places


_Pattern = Callable[[Floats, Floats, Floats, Floats], NDArray[Any]]

# Of across, along (in periods), smooth noise and grain, to a darkness from 0 to 1; in the order of `TEXTURES`.
_TEXTURE_PATTERNS: tuple[_Pattern, ...] = (
    lambda a, b, c, g: _zigzag(a) > 0.5,
    lambda a, b, c, g: _zigzag(a / 1.8),
    lambda a, b, c, g: _cell(a) ** 2 + _cell(b) ** 2 < 0.45,
    lambda a, b, c, g: (_zigzag(a / 1.4) > 0.5) ^ (_zigzag(b / 1.4) > 0.5),
    lambda a, b, c, g: (_zigzag(a / 1.3) > 0.75) | (_zigzag(b / 1.3) > 0.75),
    lambda a, b, c, g: _zigzag(a + _zigzag(b / 1.6)) > 0.5,
    lambda a, b, c, g: _zigzag(a + 0.5 * np.sin(2.6 * b)),
    lambda a, b, c, g: _zigzag(a / 1.6) + _zigzag(b / 1.6) > 1,
    lambda a, b, c, g: (_cell(a / 1.3 + 0.5 * (np.floor(b) % 2)) ** 2 + (_cell(b) * 0.5 + 0.5) ** 2).clip(0, 1),
    lambda a, b, c, g: (1 - _cell(a / 1.5) ** 2 - _cell(b / 1.5) ** 2).clip(0, 1),
    lambda a, b, c, g: _zigzag(0.5 * a + 3 * c),
    lambda a, b, c, g: g > 0.75,
)
# Of x, y in the thing's own coordinates and smooth noise, to a brightness; in the order of `MATERIALS`.
_MATERIAL_PATTERNS: tuple[Callable[[Floats, Floats, Floats], NDArray[Any]], ...] = (
    lambda x, y, c: 0.75 + 0.5 * np.exp(-(((x + y) % 0.9 - 0.45) ** 2) / 0.02),
    lambda x, y, c: 0.85 + 0.15 * np.sin(22 * y + 3 * np.sin(4 * x)),
    lambda x, y, c: 0.7 + 0.45 * np.round(3 * c) / 3,
    lambda x, y, c: 0.85 + 0.15 * np.sign(np.sin(20 * x)) * np.sign(np.sin(20 * y)),
    lambda x, y, c: 0.9 + 0.35 * ((x - y) % 0.7 < 0.2) - 0.2 * y,
    lambda x, y, c: np.ones_like(x),
)

_SHAPES = _Shapes.of(PARTS)
_RGB = np.array(list(COLORS.values()), np.float32)
_GROUNDS = np.array([COLOR_NAMES.index(color) for color, *_ in PLACES.values()])
_SKIES = np.array([COLOR_NAMES.index(color) for color, _ in TIMES.values()])
# Places at which each family is at home, [family, 3]; -1 fills up.
_HOMES = np.array(
    [
        ([place for place, (_, *families) in enumerate(PLACES.values()) if family in families] + [-1] * 3)[:3]
        for family in FAMILY_NAMES
    ]
)
