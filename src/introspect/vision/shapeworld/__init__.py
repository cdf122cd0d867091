"""shapeworld: generated images of families of similar classes, in which every pixel is known.

Each image shows one thing, made of parts, in a scene. The members of a family share most of their parts and differ in a
few: so some classes are alike, and a classifier that has seen enough knows which. Shape alone decides the class;
colour, material and texture are drawn apart from it, and a family is at home in some places more often than in others.

What there is to see falls into the six categories of Broden: `color`, `object` (the class, and its family), `part`,
`material` (of each part) and `texture` (of the ground) for pixels, `scene` (place and time) for an image as a whole.

An image is a function of seed, split and index alone, and images of different splits or seeds share no random number.
"""

from __future__ import annotations

from introspect.vision.shapeworld.drawing import SPLITS, Drawn, Shapeworld, Split, draw
from introspect.vision.shapeworld.things import (
    CLASS_NAMES,
    COLORS,
    FAMILIES,
    FAMILY_NAMES,
    FAMILY_OF,
    LAYERS,
    VOCABULARY,
    number,
)

__all__ = [
    "CLASS_NAMES",
    "COLORS",
    "FAMILIES",
    "FAMILY_NAMES",
    "FAMILY_OF",
    "LAYERS",
    "SPLITS",
    "VOCABULARY",
    "Drawn",
    "Shapeworld",
    "Split",
    "draw",
    "number",
]
