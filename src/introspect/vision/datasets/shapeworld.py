"""shapeworld as images with classes, and with the pixels that show the class; all else is `dissection.concepts`."""

from __future__ import annotations

from collections.abc import Mapping

from introspect.core.errors import InputError
from introspect.vision.datasets.base import ImageSet, Split, TensorImages, checked_sizes, generated_identity
from introspect.vision.shapeworld.drawing import Shapeworld, draw
from introspect.vision.shapeworld.things import CLASS_NAMES, FAMILY_OF, LAYERS

_CLASS_LAYER = len(LAYERS) - 1 - LAYERS[::-1].index("object")  # the first layer of objects holds the families
_TELLING = 0.9


class ShapeworldImages(ImageSet):
    """Generated images of families of similar classes.

    Args:
        classes: number of classes, which is checked.
        seed: which images are drawn; splits are disjoint whatever the seeds are.
        sizes: images per split: train, validation, test.
        side: height and width of an image, pixels.

    Raises:
        InputError: a split has another name or no images, or there is another number of classes.
    """

    name = "shapeworld"
    groups = tuple(FAMILY_OF.tolist())
    has_truths = True

    def __init__(
        self, *, classes: int = len(CLASS_NAMES), seed: int = 0, sizes: Mapping[str, int], side: int = 48
    ) -> None:
        if classes != len(CLASS_NAMES):
            raise InputError(f"data.classes={classes}: shapeworld has {len(CLASS_NAMES)}")
        self.seed, self.sizes, self.side, self.classes = seed, checked_sizes(sizes), side, classes

    @property
    def identity(self) -> str:
        """Everything that decides what `load` gives."""
        sample = draw("train", self.seed, 0, self.classes, self.side).images
        return generated_identity(self.name, self.seed, self.sizes, self.side, sample)

    def load(self, split: Split) -> TensorImages:
        """Return the images of a split, in memory."""
        world = self._world(split)
        return TensorImages(world.images, world.classes)

    def explained(self, split: Split) -> TensorImages:
        """Return the images of a split with the truth of what matters: 0.9 on the object of the class, 0 elsewhere.

        The truth is ours, in the values of the five-band score. Nothing has 0.4: which parts of an object tell its
        class from another of its family is not annotated.
        """
        drawn = self._world(split).drawn
        return TensorImages(drawn.images, drawn.classes, (drawn.pixels[:, _CLASS_LAYER] > 0).float() * _TELLING)

    def _world(self, split: Split) -> Shapeworld:
        return Shapeworld(split=split, size=self.sizes[split], seed=self.seed, side=self.side)
