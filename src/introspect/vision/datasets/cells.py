"""Cells as images with classes, and with the truth of what matters in them; see `introspect.vision.cells`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from introspect.core.errors import InputError
from introspect.vision.cells import CELL_NAMES, KINDS, DrawnCells, draw_cells
from introspect.vision.datasets.base import Split

_KEPT = 2**26  # pixels of a split that is drawn once and kept; a larger one is drawn batch by batch


class CellImages:
    """Generated cells, of ten classes.

    Args:
        classes: how many there are, which is checked.
        seed: which images are drawn; splits are disjoint whatever the seeds are.
        sizes: images per split: train, validation, test. Published: 6400, 1600 and 1600.
        side: height and width of an image, pixels. Published: 512.

    Raises:
        InputError: a split has another name or no images, there is another number of classes, or the side is too small.
    """

    name = "cells"
    groups: tuple[int, ...] = KINDS

    def __init__(
        self, *, classes: int = len(CELL_NAMES), seed: int = 0, sizes: Mapping[str, int], side: int = 64
    ) -> None:
        if wrong := sizes.keys() ^ {"train", "validation", "test"}:
            raise InputError(f"data.sizes: {sorted(wrong)[0]}: expected train, validation and test")
        if empty := [split for split, size in sizes.items() if type(size) is not int or size < 1]:
            raise InputError(f"data.sizes.{empty[0]}={sizes[empty[0]]}: expected a whole number from 1")
        if classes != len(CELL_NAMES):
            raise InputError(f"data.classes={classes}: cells has {len(CELL_NAMES)}")
        if type(side) is not int or side < 16:
            raise InputError(f"data.side={side}: expected a whole number from 16")
        self.classes = classes
        self.seed, self.sizes, self.side = seed, dict(sizes), side
        self._splits: dict[tuple[Split, bool], Cells] = {}

    @property
    def identity(self) -> str:
        """See `ImageSet`. Of another version that draws other images, it is another."""
        sample = draw_cells("train", self.seed, range(self.classes), self.side).images.numpy().tobytes()
        digest = hashlib.sha256(sample).hexdigest()[:12]
        return f"cells seed {self.seed}, {self.sizes}, {self.side} pixels, images {digest}"

    def load(self, split: Split) -> Cells:
        """The images of a split with their classes."""
        return self._split(split, explained=False)

    def explained(self, split: Split) -> Cells:
        """The images of a split with their classes and the truth of what matters, see `introspect.vision.cells`."""
        return self._split(split, explained=True)

    def _split(self, split: Split, *, explained: bool) -> Cells:
        """One object each, so that what is kept is drawn once."""
        if (split, explained) not in self._splits:
            self._splits[split, explained] = Cells(self, split, explained=explained)
        return self._splits[split, explained]


class Cells(Dataset[tuple[Tensor, ...]]):
    """A split: images uint8 [3, s, s], classes, and, where it is explained, truths float32 [s, s]; read in batches."""

    def __init__(self, images: CellImages, split: Split, *, explained: bool) -> None:
        self._seed, self._side, self._split, self._explained = images.seed, images.side, split, explained
        self._size = images.sizes[split]
        self._kept: DrawnCells | None = None
        self.targets = torch.arange(self._size) % images.classes

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if not -self._size <= index < self._size:
            raise IndexError(index)
        image, number, *truth = self.__getitems__([index % self._size])
        return image[0], number[0], *(part[0] for part in truth)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """A batch, collated."""
        if self._kept is None and self._size * self._side**2 <= _KEPT:
            self._kept = draw_cells(self._split, self._seed, range(self._size), self._side)
        if self._kept is None:
            drawn = draw_cells(self._split, self._seed, indices, self._side)
        else:
            chosen = torch.as_tensor(indices)
            drawn = DrawnCells(*(part[chosen] for part in self._kept))
        return tuple(drawn) if self._explained else (drawn.images, drawn.classes)
