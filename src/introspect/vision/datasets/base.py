"""The form of every labelled image set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

Split = Literal["train", "validation", "test"]
Sample = tuple[Tensor, int]


class ImageSet(Protocol):
    """Where images and their classes come from.

    name: of the data set. side: height and width of an image, pixels. classes: how many there are. identity: everything
    that decides what `load` gives, as text. One whose classes fall into groups of similar ones also has `groups`: the
    number of each class's group.
    """

    name: str
    side: int
    classes: int

    @property
    def identity(self) -> str:
        """Everything that decides what `load` gives."""
        ...

    def load(self, split: Split) -> Dataset[Sample]:
        """The images of a split, each uint8 [3, side, side] with its class number."""
        ...


class TensorImages(Dataset[Sample]):
    """Images in memory: uint8 [n, 3, h, w] and classes int64 [n]; a batch is read at once."""

    def __init__(self, images: Tensor, classes: Tensor) -> None:
        self.images, self.targets = images, classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return self.images[index], int(self.targets[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A batch, collated."""
        chosen = torch.as_tensor(indices)
        return self.images[chosen], self.targets[chosen]
