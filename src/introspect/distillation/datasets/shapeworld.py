"""shapeworld as images with classes; what else there is to see in them is `dissection.concepts.shapeworld`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from introspect.distillation.datasets.base import Split, TensorImages
from introspect.errors import InputError
from introspect.shapeworld import CLASS_NAMES, FAMILY_OF, Shapeworld, draw


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
