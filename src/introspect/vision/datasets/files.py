"""Images on disk: CIFAR in its published files, and image folders with a subfolder per class (ImageNet, Places365)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset, Subset

from introspect.core.errors import InputError, first_line
from introspect.core.seeds import derived_seed
from introspect.vision.datasets.base import ImageSet, Sample, Split, TensorImages

# The published groups of CIFAR-100's classes, which are numbered in the order of their names.
COARSE = {
    "aquatic mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food containers": "bottle bowl can cup plate",
    "fruit and vegetables": "apple mushroom orange pear sweet_pepper",
    "household electrical devices": "clock keyboard lamp telephone television",
    "household furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large carnivores": "bear leopard lion tiger wolf",
    "large man-made outdoor things": "bridge castle house road skyscraper",
    "large natural outdoor scenes": "cloud forest mountain plain sea",
    "large omnivores and herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium-sized mammals": "fox porcupine possum raccoon skunk",
    "non-insect invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles 1": "bicycle bus motorcycle pickup_truck train",
    "vehicles 2": "lawn_mower rocket streetcar tank tractor",
}
# CIFAR-10 has no published groups; these are ours.
KINDS = {"vehicle": "airplane automobile ship truck", "animal": "bird cat deer dog frog horse"}


class Cifar(ImageSet):
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009); the last images of the published training set are the validation set.

    Args:
        classes: 10 or 100.
        root: folder that holds the published files, or gets them.
        download: whether they may be downloaded.
        validation: number of training images that are held out.

    Raises:
        InputError: the files are not there, or the numbers are impossible.
    """

    side = 32

    def __init__(
        self, *, classes: Literal[10, 100] = 10, root: str | Path, download: bool = False, validation: int = 5000
    ) -> None:
        if classes not in (10, 100):
            raise InputError(f"data.classes={classes}: CIFAR has 10 or 100")
        if not 0 < validation < 50_000:
            raise InputError(f"data.validation={validation}: expected 1 to 49999 of the 50000 training images")
        self.classes, self.root, self.download, self.validation = classes, Path(root), download, validation
        self.name = f"cifar{classes}"

    @property
    def identity(self) -> str:
        """Everything that decides what `load` gives."""
        return f"{self.name}, {self.validation} held out"

    @property
    def groups(self) -> tuple[int, ...]:
        """The group of each class."""
        return groups_of(COARSE if self.classes == 100 else KINDS)

    def load(self, split: Split) -> TensorImages:
        """Return the images of a split, in memory."""
        from torchvision import datasets

        published = {10: datasets.CIFAR10, 100: datasets.CIFAR100}[self.classes]
        try:
            found: Any = published(str(self.root), train=split != "test", download=self.download)
        except (RuntimeError, OSError) as error:
            raise InputError(
                f"data.root={self.root}: no files of {self.name} ({first_line(error)}); data.download=true gets them"
            ) from error
        images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
        targets = torch.tensor(found.targets)
        kept = {
            "train": slice(None, len(images) - self.validation),
            "validation": slice(len(images) - self.validation, None),
            "test": slice(None),
        }[split]
        return TensorImages(images[kept], targets[kept])


def groups_of(members: Mapping[str, str]) -> tuple[int, ...]:
    """Return the group of each class, in the order of the classes' names, from groups and the names in them."""
    of = {name: number for number, names in enumerate(members.values()) for name in names.split()}
    return tuple(of[name] for name in sorted(of))


def groups_below(
    classes: Sequence[str], hierarchy: str | Path, ancestors: Sequence[str] | None = None
) -> tuple[int, ...]:
    """Return the group of each class, by what it descends from.

    Args:
        classes: names of the classes.
        hierarchy: file of lines `parent child`; one child may have several parents, the first line counts first.
        ancestors: see `ImageFolders`.

    Raises:
        InputError: the file cannot be read, a line is not a pair, or a class or an ancestor is not in it.
    """
    parents = _parents(Path(hierarchy))
    if absent := [name for name in classes if name not in parents]:
        raise InputError(f"data.hierarchy={hierarchy}: names no parent of class {absent[0]} ({len(absent)} in all)")
    if ancestors is None:
        chosen = [parents[name][0] for name in classes]
    else:
        known = {parent for found in parents.values() for parent in found}
        if unknown := [name for name in ancestors if name not in known]:
            raise InputError(f"data.ancestors={unknown[0]}: {hierarchy} has no child of it")
        above = {name: _above(name, parents) for name in classes}
        chosen = [next((each for each in ancestors if each in above[name]), f"{name} alone") for name in classes]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(chosen))}
    return tuple(numbers[group] for group in chosen)


def _parents(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data.hierarchy={path}: cannot be read as text: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 2:
            raise InputError(f"{path}, line {number}: expected parent and child, two names: {line.strip()[:60]!r}")
        found.setdefault(words[1], []).append(words[0])
    return found


def _above(name: str, parents: Mapping[str, Sequence[str]]) -> set[str]:
    """Return everything that a name descends from, and the name itself; a circle ends the search."""
    found, waiting = {name}, [name]
    while waiting:
        new = [parent for parent in parents.get(waiting.pop(), ()) if parent not in found]
        found.update(new)
        waiting += new
    return found


class ImageFolders(ImageSet):
    """Folders `root/<split>/<class>/<image>`; classes are numbered in the order of their names.

    Args:
        name: name of the data set.
        root: folder of the data set.
        side: height and width of an image after resizing, pixels.
        classes: number of classes.
        train: folder of the training images.
        validation: folder of the validation images; None holds out some of `train`, chosen by file name.
        test: folder of the test images.
        resize: `crop` scales the shorter side to 256/224 of `side` and takes the middle, as is usual for ImageNet;
            `exact` expects images of that size already.
        held_out: fraction of the training images that is held out where `validation` is None.
        hierarchy: file that says which classes are alike: lines `parent child`, such as the is-a relation of WordNet
            that ImageNet publishes (wordnet.is_a.txt); None where there are no groups.
        ancestors: the groups, by their names in that file: a class belongs to the first of them that it descends from,
            and one that descends from none is alone. None groups the classes that have the same parent.

    Raises:
        InputError: a folder is missing, or has another number of classes; the hierarchy lacks a class or an ancestor.
    """

    def __init__(
        self,
        *,
        name: str,
        root: str | Path,
        side: int,
        classes: int,
        train: str = "train",
        validation: str | None = None,
        test: str = "val",
        resize: Literal["crop", "exact"] = "crop",
        held_out: float = 0.1,
        hierarchy: str | Path | None = None,
        ancestors: Sequence[str] | None = None,
    ) -> None:
        self.name, self.root, self.side, self.classes = name, Path(root), side, classes
        self.folders = {"train": train, "validation": validation or train, "test": test}
        if resize not in ("crop", "exact"):
            raise InputError(f"data.resize={resize}: expected crop or exact")
        if not 0 < held_out < 1:
            raise InputError(f"data.held_out={held_out}: expected a fraction between 0 and 1")
        self.shared = validation is None
        self.resize, self.held_out = resize, held_out
        self.crops = resize == "crop"
        self.hierarchy, self.ancestors = hierarchy, None if ancestors is None else tuple(map(str, ancestors))
        if ancestors is not None and hierarchy is None:
            raise InputError("data.ancestors: groups are found with data.hierarchy=FILE")

    @property
    def identity(self) -> str:
        """Everything that decides what `load` gives."""
        held_out = f", {self.held_out} held out" if self.shared else ""
        size = f"{self.classes} classes, {self.resize} {self.side} pixels{held_out}"
        return f"{self.name} at {self.root}, {self.folders}, {size}"

    @property
    def groups(self) -> tuple[int, ...]:
        """The group of each class, by the hierarchy; empty where there is none."""
        if self.hierarchy is None:
            return ()
        names = sorted(self._class_names(()))
        if len(names) != self.classes:
            raise InputError(
                f"data.root={self.root}: {self.folders['train']} holds {len(names)} classes, data.classes says "
                f"{self.classes}"
            )
        return groups_below(names, self.hierarchy, self.ancestors)

    def load(self, split: Split) -> Dataset[Sample]:
        """Return the images of a split, read on access; `resize=crop` crops training images at random."""
        return self._read(split, at_random=split == "train")

    def fixed(self, split: Split) -> Dataset[Sample]:
        """Return the same images with the same pixels each time, cropped as test images are."""
        return self._read(split, at_random=False)

    def _read(self, split: Split, *, at_random: bool) -> Dataset[Sample]:
        from torchvision import datasets

        folder = self.root / self.folders[split]
        if not folder.is_dir():
            raise InputError(f"data.root={self.root}: there is no folder {self.folders[split]} of {split} images in it")
        try:
            found = datasets.ImageFolder(str(folder), transform=self._transform(at_random))
        except (FileNotFoundError, OSError) as error:
            raise InputError(f"{folder}: expected one folder of images per class: {first_line(error)}") from error
        if len(found.classes) != self.classes:
            raise InputError(f"{folder}: holds {len(found.classes)} classes, data.classes says {self.classes}")
        if different := set(found.classes) ^ self._class_names(found.classes):
            raise InputError(f"{folder}: class {min(different)} is not in both this folder and {self.folders['train']}")
        if not self.shared or split == "test":
            return found
        is_held_out = [_bucket(Path(path).relative_to(folder)) < self.held_out for path, _ in found.samples]
        return Subset(found, [n for n, held in enumerate(is_held_out) if held == (split == "validation")])

    def _class_names(self, otherwise: Sequence[str]) -> set[str]:
        """Return the classes of the training images, if their folder exists."""
        train = self.root / self.folders["train"]
        return {path.name for path in train.iterdir() if path.is_dir()} if train.is_dir() else {*otherwise}

    def _transform(self, at_random: bool) -> Any:
        from torchvision.transforms import v2

        if self.resize == "exact":
            steps: list[Any] = [_Exact(self.side)]
        elif at_random:
            steps = [v2.RandomResizedCrop(self.side, antialias=True)]
        else:
            steps = [v2.Resize(round(self.side * 256 / 224), antialias=True), v2.CenterCrop(self.side)]
        return v2.Compose([v2.RGB(), v2.PILToTensor(), *steps])


class _Exact:
    """Refuse images of another size; a silent resize would change the results."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if image.shape[-2:] != (self.side, self.side):
            raise InputError(
                f"data.side={self.side}: an image has {image.shape[-1]} x {image.shape[-2]} pixels; data.resize=crop "
                "brings all to one size"
            )
        return image


def _bucket(path: Path) -> float:
    """Return a number from 0 to 1 that depends on the name alone."""
    return derived_seed(path.as_posix(), size=4) / 2**32
