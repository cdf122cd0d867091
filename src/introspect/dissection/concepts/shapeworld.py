"""shapeworld as concepts, and in Broden's layout on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from introspect.core.errors import InputError
from introspect.core.files import write_csv
from introspect.dissection.concepts.base import Annotated, Label
from introspect.dissection.options import as_names, whole_number
from introspect.vision.datasets.base import SPLITS, Split
from introspect.vision.shapeworld.drawing import Shapeworld
from introspect.vision.shapeworld.things import LAYERS, VOCABULARY


class ShapeworldConcepts:
    """Generated images with the masks of all that is in them.

    Args:
        size: number of images.
        seed: which images.
        split: of shapeworld: train, validation or test.
        side: height and width of images and masks, pixels.
        categories: the one or those to dissect with; None takes all: color, object, part, material, texture, scene.

    Raises:
        InputError: an argument is impossible, or a category is not one of these.
    """

    name = "shapeworld"

    def __init__(
        self,
        *,
        size: int = 1000,
        seed: int = 0,
        split: Split = "test",
        side: int = 48,
        categories: str | Sequence[str] | None = None,
    ) -> None:
        for name, value, least in (("size", size, 1), ("seed", seed, 0), ("side", side, 8)):
            whole_number(f"concepts.{name}", value, least)
        self.world = Shapeworld(split=split, size=size, seed=seed, side=side)
        wanted = list(VOCABULARY) if categories is None else as_names(categories)
        if absent := [category for category in wanted if category not in VOCABULARY]:
            raise InputError(f"concepts.categories={absent[0]}: shapeworld has {', '.join(VOCABULARY)}")
        if not wanted:
            raise InputError("concepts.categories: name at least one, or null for all")
        self.categories = tuple(category for category in VOCABULARY if category in wanted)
        self._layers = [index for index, category in enumerate(LAYERS) if category in self.categories]
        last = self.categories[-1]
        named = [(name, category) for category, names in VOCABULARY.items() for name in names]
        self.labels: tuple[Label, ...] = (
            Label(0, "", last),
            *(
                Label(number, name, category) if category in self.categories else Label(number, "", last)
                for number, (name, category) in enumerate(named, start=1)
            ),
        )
        self.primary = torch.tensor([self.categories.index(label.category) for label in self.labels])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.world)

    def __getitem__(self, index: int) -> Annotated:
        """Draw one image, its pixel layers in the order of the categories, and its scene."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        drawn = self.world.drawn
        scalars = (int(drawn.scenes[index]),) if "scene" in self.categories else ()
        name = f"{self.world.split}/{index:06d}.png"
        return Annotated(drawn.images[index], drawn.pixels[index, self._layers].int(), scalars, name)


def export(concepts: ShapeworldConcepts, root: str | Path) -> None:
    """Write the images, the masks and the tables of Broden's layout, see `concepts.broden`; nothing is lost.

    Raises:
        InputError: the folder holds something already.
    """
    root = Path(root)
    if root.exists() and any(root.iterdir()):
        raise InputError(f"{root}: is not empty; an export wants a folder of its own")
    layers = [category for category in LAYERS if category in concepts.categories]
    images = np.zeros(len(concepts.labels), np.int64)  # in how many images each label is
    shares = np.zeros(len(concepts.labels))  # fraction of each image that it covers, summed
    rows = []
    for item in (concepts[index] for index in range(len(concepts))):
        height, width = item.image.shape[1:]
        _write_image(root / "images" / item.name, item.image.permute(1, 2, 0).numpy())
        cells: dict[str, list[str]] = {category: [] for category in concepts.categories}
        for number, (category, mask) in enumerate(zip(layers, item.pixels.numpy(), strict=True)):
            if mask.any():
                place = item.name.replace(".png", f"_{category}_{number}.png")
                _write_image(root / "images" / place, np.stack([mask % 256, mask // 256, 0 * mask], 2).astype(np.uint8))
                cells[category].append(place)
        for label in item.scalars:
            cells[concepts.labels[label].category].append(str(label))
        counts = np.bincount(item.pixels.numpy().ravel(), minlength=len(images)) / (height * width)
        counts[list(item.scalars)] = 1
        counts[0] = 0
        images, shares = images + (counts > 0), shares + counts
        split = "val" if concepts.world.split == SPLITS[1] else concepts.world.split
        rows.append([item.name, split, height, width, height, width, *(";".join(cell) for cell in cells.values())])
    write_csv(root / "index.csv", ["image", "split", "ih", "iw", "sh", "sw", *concepts.categories], rows)
    _write_tables_of_labels(concepts, root, images, shares)


def _write_tables_of_labels(concepts: ShapeworldConcepts, root: Path, images: np.ndarray, shares: np.ndarray) -> None:
    named = [label for label in concepts.labels if label.name]
    covered = {label.number: f"{shares[label.number]:.9f}" for label in named}
    write_csv(
        root / "label.csv",
        ["number", "name", "category", "frequency", "coverage", "syns"],
        [[n, name, f"{category}({images[n]})", images[n], covered[n], ""] for n, name, category in named],
    )
    categories = []
    for category in concepts.categories:
        own = [label for label in named if label.category == category]
        count = int(sum(images[label.number] for label in own))
        categories.append([category, own[0].number, own[-1].number, len(own), count])
        ranked = sorted(own, key=lambda label: -images[label.number])
        write_csv(
            root / f"c_{category}.csv",
            ["code", "number", "name", "frequency", "coverage"],
            [[code, n, name, images[n], covered[n]] for code, (n, name, _) in enumerate(ranked, start=1)],
        )
    write_csv(root / "category.csv", ["name", "first", "last", "count", "frequency"], categories)


def _write_image(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
