"""What there is to see in shapeworld, and the numbers of its labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_ROUND, _BOX = 0.0, 1.0
BODY, ACCENT = 1, 2


class Part(NamedTuple):
    """An ellipse or a box, in the thing's own coordinates: x to the front, y up, both from about -1 to 1.

    width, height: half of each. box: whether it has corners. taper: by how much of its width it narrows from the middle
    to the top and widens to the bottom; 1 makes a box a triangle. turn: counterclockwise, radians. paint: body's or
    accent's colour and material.
    """

    name: str
    x: float
    y: float
    width: float
    height: float
    box: float = _ROUND
    taper: float = 0.0
    turn: float = 0.0
    paint: int = BODY


def _accent(part: Part) -> Part:
    return part._replace(paint=ACCENT)


_BIRD = (
    Part("tail", -0.78, 0.08, 0.20, 0.26, _BOX, 0.7, 1.4),
    Part("body", -0.05, 0.0, 0.58, 0.36),
    Part("head", 0.52, 0.40, 0.24, 0.24),
)
_LEG = _accent(Part("leg", 0.0, -0.55, 0.06, 0.28, _BOX))
_BEAK = _accent(Part("beak", 0.86, 0.38, 0.12, 0.16, _BOX, 0.9, -1.57))
_WING = _accent(Part("wing", -0.12, 0.08, 0.34, 0.18, _ROUND, 0.0, 0.3))
_FISH = (Part("body", 0.05, 0.0, 0.66, 0.36), Part("tail", -0.78, 0.0, 0.30, 0.22, _BOX, 0.8, -1.57))
_FIN = _accent(Part("fin", 0.0, 0.42, 0.26, 0.18, _BOX, 0.8))
_CAR = (
    Part("chassis", 0.0, -0.12, 0.86, 0.24, _BOX),
    _accent(Part("wheel", -0.48, -0.42, 0.20, 0.20)),
    _accent(Part("wheel", 0.48, -0.42, 0.20, 0.20)),
)
_HOUSE = (Part("wall", 0.0, -0.25, 0.62, 0.50, _BOX),)
_ROOF = _accent(Part("roof", 0.0, 0.50, 0.40, 0.28, _BOX, 0.9))
_DOOR = _accent(Part("door", 0.0, -0.50, 0.13, 0.24, _BOX))
_WINDOW = _accent(Part("window", -0.36, -0.10, 0.13, 0.13, _BOX))
_TREE = (_accent(Part("trunk", 0.0, -0.62, 0.10, 0.34, _BOX)),)
_BOAT = (Part("hull", 0.0, -0.45, 0.66, 0.22, _BOX, -0.4), _accent(Part("mast", 0.0, 0.25, 0.05, 0.60, _BOX)))

# Family to class to parts, the later ones in front.
FAMILIES: dict[str, dict[str, tuple[Part, ...]]] = {
    "bird": {
        "finch": (*_BIRD, _BEAK, _WING, _LEG),
        "duck": (*_BIRD, _BEAK._replace(width=0.09, height=0.28, taper=0.1, x=0.94, y=0.34), _WING),
        "heron": (
            *_BIRD[:2],
            Part("head", 0.60, 0.62, 0.18, 0.18),
            Part("neck", 0.46, 0.34, 0.09, 0.30, _BOX, 0.0, -0.3),
            _BEAK._replace(y=0.62, x=0.92, height=0.22),
            _LEG._replace(height=0.38, y=-0.62),
        ),
    },
    "fish": {
        "carp": (*_FISH, _FIN, _accent(Part("fin", -0.10, -0.40, 0.20, 0.14, _BOX, -0.8))),
        "shark": (*_FISH, _FIN._replace(width=0.20, height=0.32, y=0.50, taper=0.95), _WING._replace(name="fin")),
        "eel": (
            Part("body", 0.05, 0.0, 0.86, 0.20),
            _FISH[1]._replace(x=-0.88, height=0.14, width=0.22),
            _FIN._replace(width=0.52, height=0.10, y=0.24, taper=0.3),
        ),
    },
    "vehicle": {
        "car": (*_CAR, Part("cabin", -0.05, 0.28, 0.42, 0.22, _BOX, 0.3), _WINDOW._replace(x=-0.05, y=0.28)),
        "van": (*_CAR, Part("cabin", -0.12, 0.34, 0.72, 0.32, _BOX, 0.05), _WINDOW._replace(x=0.36, y=0.36)),
        "truck": (
            *_CAR,
            Part("cabin", 0.58, 0.34, 0.26, 0.30, _BOX),
            _accent(Part("cargo", -0.32, 0.36, 0.52, 0.26, _BOX)),
            _WINDOW._replace(x=0.62, y=0.40, width=0.11),
        ),
    },
    "building": {
        "cottage": (*_HOUSE, _ROOF, _DOOR, _WINDOW),
        "church": (
            *_HOUSE,
            Part("tower", -0.46, 0.30, 0.18, 0.60, _BOX),
            _ROOF._replace(width=0.13, height=0.20, x=-0.46, y=1.0),
            _DOOR,
        ),
        "barn": (*_HOUSE, _ROOF._replace(width=0.54, taper=0.3, height=0.20, y=0.42), _DOOR._replace(width=0.28)),
    },
    "tree": {
        "oak": (*_TREE, Part("crown", 0.0, 0.25, 0.62, 0.56)),
        "fir": (*_TREE, Part("crown", 0.0, 0.30, 0.34, 0.66, _BOX, 0.95)),
        "poplar": (*_TREE, Part("crown", 0.0, 0.30, 0.30, 0.68)),
    },
    "boat": {
        "sloop": (
            *_BOAT,
            Part("sail", 0.30, 0.25, 0.16, 0.48, _BOX, 0.9),
            _accent(Part("flag", 0.12, 0.82, 0.14, 0.07, _BOX)),
        ),
        "ketch": (
            *_BOAT,
            Part("sail", 0.28, 0.28, 0.15, 0.46, _BOX, 0.9),
            Part("sail", -0.36, 0.12, 0.15, 0.32, _BOX, 0.9),
        ),
        "steamer": (
            *_BOAT[:1],
            Part("cabin", -0.12, -0.06, 0.36, 0.18, _BOX),
            _accent(Part("funnel", -0.12, 0.30, 0.12, 0.24, _BOX)),
            _WINDOW._replace(x=0.06, y=-0.06, width=0.09, height=0.09),
        ),
    },
}
FAMILY_NAMES = tuple(FAMILIES)
CLASS_NAMES = tuple(name for members in FAMILIES.values() for name in members)
PARTS = tuple(parts for members in FAMILIES.values() for parts in members.values())
FAMILY_OF = np.array([f for f, members in enumerate(FAMILIES.values()) for _ in members])

# Name to red, green, blue.
COLORS = {
    "black": (0.06, 0.06, 0.07),
    "blue": (0.16, 0.32, 0.82),
    "brown": (0.45, 0.28, 0.14),
    "grey": (0.50, 0.50, 0.50),
    "green": (0.18, 0.56, 0.20),
    "orange": (0.93, 0.52, 0.12),
    "pink": (0.95, 0.60, 0.72),
    "purple": (0.50, 0.22, 0.62),
    "red": (0.80, 0.12, 0.13),
    "white": (0.95, 0.95, 0.94),
    "yellow": (0.94, 0.86, 0.24),
}
COLOR_NAMES = tuple(COLORS)
# Place to the colour of its ground and the families that are at home there; time to the colours of sky and light.
PLACES = {
    "meadow": ("green", "building", "bird"),
    "desert": ("orange", "vehicle", "building"),
    "beach": ("yellow", "boat", "bird"),
    "snowfield": ("white", "tree", "building"),
    "street": ("grey", "vehicle", "building"),
    "lake": ("blue", "fish", "boat"),
    "forest": ("brown", "tree", "bird"),
    "moor": ("purple", "tree", "vehicle"),
}
TIMES = {
    "day": ("blue", (1.0, 1.0, 1.0)),
    "dusk": ("pink", (1.0, 0.84, 0.74)),
    "night": ("black", (0.68, 0.74, 0.88)),
}
SCENES = tuple(f"{place} by {time}" for place in PLACES for time in TIMES)
MATERIALS = ("metal", "wood", "stone", "fabric", "glass", "plastic")
TEXTURES = (
    "striped", "banded", "dotted", "checkered", "gridded", "zigzagged",
    "wavy", "lozenged", "scaly", "bumpy", "marbled", "speckled",
)  # fmt: skip

# Category to its labels. A label's number is its place in this order, from 1; 0 is none.
VOCABULARY: dict[str, tuple[str, ...]] = {
    "color": COLOR_NAMES,
    "object": (*FAMILY_NAMES, *CLASS_NAMES),
    "part": tuple(dict.fromkeys(part.name for parts in PARTS for part in parts)),
    "material": MATERIALS,
    "texture": TEXTURES,
    "scene": SCENES,
}
# What each layer of `Drawn.pixels` holds.
LAYERS = ("color", "object", "object", "part", "material", "texture")


def number(category: str, name: str) -> int:
    """The number of a label."""
    return first_number(category) + VOCABULARY[category].index(name)


def first_number(category: str) -> int:
    """The number of the first label of a category."""
    names = list(VOCABULARY)
    return 1 + sum(len(VOCABULARY[earlier]) for earlier in names[: names.index(category)])
