"""Cells as images with classes, and with the truth of what matters in them; see `introspect.vision.cells`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from introspect.core.errors import InputError
from introspect.vision.cells import CELL_NAMES, KINDS, DrawnCells, draw_cells
from introspect.vision.datasets.base import BatchedImages, ImageSet, Split, checked_sizes, generated_identity

_KEPT = 2**26  # pixels of a split that is drawn once and kept; a larger one is drawn batch by batch


class CellImages(ImageSet):
    """Generated cells, of ten classes.

    Args:
        classes: number of classes, which is checked.
        seed: which images are drawn; splits are disjoint whatever the seeds are.
        sizes: images per split: train, validation, test. Published: 6400, 1600 and 1600.
        side: height and width of an image, pixels. Published: 512.

    Raises:
        InputError: a split has another name or no images, there is another number of classes, or the side is too small.
    """

    name = "cells"
    groups = KINDS
    has_truths = True

    def __init__(
        self, *, classes: int = len(CELL_NAMES), seed: int = 0, sizes: Mapping[str, int], side: int = 64
    ) -> None:
        if classes != len(CELL_NAMES):
            raise InputError(f"data.classes={classes}: cells has {len(CELL_NAMES)}")
        if type(side) is not int or side < 16:
            raise InputError(f"data.side={side}: expected a whole number from 16")
        self.seed, self.sizes, self.side, self.classes = seed, checked_sizes(sizes), side, classes
        self._splits: dict[tuple[Split, bool], Cells] = {}

    @property
    def identity(self) -> str:
        """Everything that decides what `load` gives."""
        sample = draw_cells("train", self.seed, range(self.classes), self.side).images
        return generated_identity(self.name, self.seed, self.sizes, self.side, sample)

    def load(self, split: Split) -> Cells:
        """Return the images of a split with their classes."""
        return self._split(split, explained=False)

    def explained(self, split: Split) -> Cells:
        """Return the images of a split with their classes and the truth of what matters."""
        return self._split(split, explained=True)

    def _split(self, split: Split, *, explained: bool) -> Cells:
        """Return one object each time, so that what is kept is drawn once."""
        if (split, explained) not in self._splits:
            self._splits[split, explained] = Cells(self, split, explained=explained)
        return self._splits[split, explained]


class Cells(BatchedImages):
    """A split: images uint8 [3, s, s], classes, and, where it is explained, truths float32 [s, s]."""

    def __init__(self, images: CellImages, split: Split, *, explained: bool) -> None:
        self._seed, self._side, self._split, self._explained = images.seed, images.side, split, explained
        self._kept: DrawnCells | None = None
        self.targets = torch.arange(images.sizes[split]) % images.classes

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Read a batch, collated."""
        if self._kept is None and len(self) * self._side**2 <= _KEPT:
            self._kept = draw_cells(self._split, self._seed, range(len(self)), self._side)
        if self._kept is None:
            drawn = draw_cells(self._split, self._seed, indices, self._side)
        else:
            chosen = torch.as_tensor(indices)
            drawn = DrawnCells(*(part[chosen] for part in self._kept))
        return tuple(drawn) if self._explained else (drawn.images, drawn.classes)
