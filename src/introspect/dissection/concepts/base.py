"""Concept data sets: images, each annotated with concepts of several categories.

Shapes: c pixel layers, sh x sw pixels of a mask, l labels (one more than the highest number; 0 is "no label").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Label(NamedTuple):
    """A concept.

    Attributes:
        number: its number in the masks.
        name: of the concept.
        category: the primary one, in which it is counted.
    """

    number: int
    name: str
    category: str


class Annotated(NamedTuple):
    """An image and the concepts in it.

    Attributes:
        image: uint8 RGB, [3, height, width].
        pixels: label of each pixel, int32 [c, sh, sw]; 0 is none. A category may take several layers, where its
            concepts overlap, or none. With c = 0, sh and sw still say how finely the image is dissected.
        scalars: labels of the image as a whole, such as its scene.
        name: of the image, for reports and errors.
    """

    image: Tensor
    pixels: Tensor
    scalars: tuple[int, ...]
    name: str


@runtime_checkable
class ConceptDataset(Protocol):
    """Annotated images, which may differ in size. Must be picklable, because worker processes may read it.

    Attributes:
        name: for reports.
        categories: in the order in which ties between them are broken, the last one wins.
        labels: one per number, from 0 ("no label") without gaps; an unused number has an empty name.
        primary: index into `categories` of each label, int64 [l].
    """

    name: str
    categories: tuple[str, ...]
    labels: Sequence[Label]
    primary: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int) -> Annotated:
        """Read one image; the same for the same index."""
        ...


def primary_categories(labels: int, categories: Sequence[str], coverage: Mapping[str, Mapping[int, float]]) -> Tensor:
    """Return the category in which each label is counted: the one that it covers most of.

    Args:
        labels: number of labels, unused numbers included.
        categories: in order; of equal coverages the last one wins, so a label without any falls to the last category.
        coverage: of each category, how much each label number covers in it (in whole images).

    Returns:
        Index into `categories`, int64 [labels].
    """
    covered = torch.zeros(len(categories), labels, dtype=torch.float64)
    for row, category in enumerate(categories):
        for number, amount in coverage.get(category, {}).items():
            covered[row, number] = amount
    return len(categories) - 1 - covered.flip(0).argmax(0)
