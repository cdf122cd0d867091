"""shapeworld as images with classes, and with the pixels that show the class; all else is `dissection.concepts`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from introspect.core.errors import InputError
from introspect.vision.datasets.base import Split, TensorImages
from introspect.vision.shapeworld import CLASS_NAMES, FAMILY_OF, LAYERS, Shapeworld, draw

_CLASS_LAYER = len(LAYERS) - 1 - LAYERS[::-1].index("object")  # the first layer of objects holds the families
_TELLING = 0.9


class ShapeworldImages:
    """Generated images of families of similar classes.

    Args:
        classes: how many there are, which is checked.
        seed: which images are drawn; splits are disjoint whatever the seeds are.
        sizes: images per split: train, validation, test.
        side: height and width of an image, pixels.

    Raises:
        InputError: a split has another name, or there is another number of classes.
    """

    name = "shapeworld"
    groups: tuple[int, ...] = tuple(FAMILY_OF.tolist())  # the family of each class

    def __init__(
        self, *, classes: int = len(CLASS_NAMES), seed: int = 0, sizes: Mapping[str, int], side: int = 48
    ) -> None:
        if wrong := sizes.keys() ^ {"train", "validation", "test"}:
            raise InputError(f"data.sizes: {sorted(wrong)[0]}: expected train, validation and test")
        if classes != len(CLASS_NAMES):
            raise InputError(f"data.classes={classes}: shapeworld has {len(CLASS_NAMES)}")
        self.classes = classes
        self.seed, self.sizes, self.side = seed, dict(sizes), side

    @property
    def identity(self) -> str:
        """See `ImageSet`. Of another version that draws other images, it is another."""
        sample = draw("train", self.seed, 0, self.classes, self.side).images.numpy().tobytes()
        digest = hashlib.sha256(sample).hexdigest()[:12]
        return f"shapeworld seed {self.seed}, {self.sizes}, {self.side} pixels, images {digest}"

    def load(self, split: Split) -> TensorImages:
        """The images of a split, in memory."""
        world = Shapeworld(split=split, size=self.sizes[split], seed=self.seed, side=self.side)
        return TensorImages(world.images, world.classes)

    def explained(self, split: Split) -> ExplainedShapeworld:
        """The images of a split with their classes and the truth of what matters."""
        return ExplainedShapeworld(Shapeworld(split=split, size=self.sizes[split], seed=self.seed, side=self.side))


class ExplainedShapeworld(Dataset[tuple[Tensor, ...]]):
    """Images uint8 [3, s, s], classes, and truths float32 [s, s]; read in batches.

    The truth is ours, in the values of the five-band score: 0.9 on the object of the image's class, 0 elsewhere.
    Nothing has 0.4: which parts of an object tell its class from another of its family is not annotated.
    """

    def __init__(self, world: Shapeworld) -> None:
        self.world = world

    def __len__(self) -> int:
        return len(self.world)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        image, number, truth = self.__getitems__([index % len(self)])
        return image[0], number[0], truth[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """A batch, collated."""
        chosen, drawn = torch.as_tensor(indices), self.world.drawn
        truth = (drawn.pixels[chosen, _CLASS_LAYER] > 0).float() * _TELLING
        return drawn.images[chosen], drawn.classes[chosen], truth
