"""Labelled image sets: the contract of every data set of images, and images that are read in batches."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from introspect.core.errors import InputError
from introspect.vision.shapeworld.drawing import SPLITS as SPLITS
from introspect.vision.shapeworld.drawing import Split as Split

Sample = tuple[Tensor, int]


class ImageSet(ABC):
    """Images with their classes, in three splits.

    Attributes:
        name: name of the data set.
        side: height and width of an image, pixels.
        classes: number of classes.
        crops: whether `load` crops training images at random, so that nothing else should shift them.
        has_truths: whether `explained` knows which pixels matter.
    """

    name: str
    side: int
    classes: int
    crops: bool = False
    has_truths: bool = False

    @property
    @abstractmethod
    def identity(self) -> str:
        """Everything that decides what `load` gives, as text."""

    @property
    def groups(self) -> tuple[int, ...]:
        """The group of similar classes to which each class belongs; empty where classes have no groups."""
        return ()

    @abstractmethod
    def load(self, split: Split) -> Dataset[Any]:
        """Return the images of a split, each uint8 [3, side, side] with its class number."""

    def fixed(self, split: Split) -> Dataset[Any]:
        """Return the same images with the same pixels each time, where `load` crops at random."""
        return self.load(split)

    def explained(self, split: Split) -> Dataset[Any]:
        """Return the images of `load` in their order, each with the truth of what matters as a third part.

        The truth is float32 [side, side]: 0.9 where something tells the class, 0.4 on the rest of the object, 0
        elsewhere.

        Raises:
            InputError: the data set does not know.
        """
        self.check_truths()
        raise NotImplementedError

    def check_truths(self) -> None:
        """Refuse a data set that does not know which pixels matter.

        Raises:
            InputError: it does not.
        """
        if not self.has_truths:
            raise InputError(
                f"data={self.name}: nothing says which pixels matter; data=cells and data=shapeworld do, for a network "
                "that was trained on them"
            )


class BatchedImages(Dataset[Any], ABC):
    """A data set that reads a batch at once."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Read a batch, collated."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return tuple(part[0] for part in self.__getitems__([index % len(self)]))


class TensorImages(BatchedImages):
    """Images in memory.

    Args:
        images: uint8 [n, 3, h, w].
        classes: int64 [n].
        others: what else each sample has, [n, …].
    """

    def __init__(self, images: Tensor, classes: Tensor, *others: Tensor) -> None:
        self.images, self.targets, self.others = images, classes, others

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Read a batch, collated."""
        chosen = torch.as_tensor(indices)
        return tuple(part[chosen] for part in (self.images, self.targets, *self.others))


def read_batch(images: Dataset[Any], indices: Sequence[int]) -> Any:
    """Read a batch of any data set, collated: at once where it can, as torch's own `DataLoader` does."""
    read = getattr(images, "__getitems__", None)
    return collate(read(indices) if callable(read) else [images[index] for index in indices])


def collate(samples: Any) -> Any:
    """Collate samples; a batch that was read at once is collated already."""
    return samples if isinstance(samples, tuple) else default_collate(samples)


def checked_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the number of images per split.

    Raises:
        InputError: a split has another name or no images.
    """
    if wrong := sizes.keys() ^ set(SPLITS):
        raise InputError(f"data.sizes: {sorted(wrong)[0]}: expected train, validation and test")
    if empty := [split for split, size in sizes.items() if type(size) is not int or size < 1]:
        raise InputError(f"data.sizes.{empty[0]}={sizes[empty[0]]}: expected a whole number from 1")
    return dict(sizes)


def generated_identity(name: str, seed: int, sizes: Mapping[str, int], side: int, sample: Tensor) -> str:
    """Describe generated images with a digest of some, so that a version that draws others has another identity."""
    digest = hashlib.sha256(sample.numpy().tobytes()).hexdigest()[:12]
    return f"{name} seed {seed}, {dict(sizes)}, {side} pixels, images {digest}"
