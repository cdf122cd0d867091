"""Dissecting the layers of a network: one pass over the images for the thresholds, one over what it left to count.

The first pass reads every image once, runs the network once, follows the upper quantile of each unit and leaves feature
maps and annotations in temporary files; the second one counts. Memory does not grow with the number of images, but for
the quantile's candidates (a share q of one layer's activations).

Shapes: b images, u units, h x w cells of a feature map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.preprocessing import preprocessing as preprocessing_of
from introspect.dissection.quantiles import UpperQuantile
from introspect.dissection.result import PLAIN, Dissection, Examples
from introspect.dissection.spool import Spool
from introspect.dissection.tally import PRESENCES, Annotation, Counts, Masks, Presence, add
from introspect.dissection.taps import find_layers, tapped
from introspect.errors import InputError
from introspect.progress import track

T = TypeVar("T")
Control = Literal["rotation", "labels"]

CONTROLS: tuple[Control, ...] = ("rotation", "labels")
QUANTILE = 0.005
IOU_THRESHOLD = 0.05
_TALLY_VALUES = 2**20  # activations that are counted at a time


@dataclass(frozen=True, slots=True)
class Rules:
    """How it is counted.

    quantile: share of cells above a unit's threshold. iou_threshold: from which IoU on a unit is a detector.
    presence: in which images a category counts, see `tally`.

    Raises:
        InputError: one of them can not be.
    """

    quantile: float = QUANTILE
    iou_threshold: float = IOU_THRESHOLD
    presence: Presence = "lite"

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise InputError(f"quantile={self.quantile}: expected a share between 0 and 1, such as {QUANTILE}")
        if not 0 < self.iou_threshold <= 1:
            raise InputError(f"iou_threshold={self.iou_threshold}: expected a share up to 1, such as {IOU_THRESHOLD}")
        if self.presence not in PRESENCES:
            raise InputError(f"presence={self.presence}: expected {' or '.join(PRESENCES)}")


def dissect(
    model: nn.Module,
    layers: Sequence[str],
    concepts: ConceptDataset,
    *,
    quantile: float = QUANTILE,
    iou_threshold: float = IOU_THRESHOLD,
    presence: Presence = "lite",
    preprocessing: str | Callable[[Tensor], Tensor] | Sequence[Sequence[float]] = "reference",
    controls: Sequence[Control] = (),
    examples: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
    device: torch.device | str | None = None,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Dissection]:
    """Dissect layers of a network.

    Args:
        model: any network that takes in images; it is left as it was.
        layers: names of modules that put out feature maps.
        concepts: the images and what is in them. Images of different sizes are not batched together, but a layer's
            maps must have one size.
        quantile, iou_threshold, presence: see `Rules`.
        preprocessing: of the pixels, see `preprocessing.preprocessing`.
        controls: what to count beside each layer: `rotation` (its units mixed by a random orthogonal matrix: as good
            a basis, but no natural one) and `labels` (each image with the annotation of another one: chance).
        examples: how many of the images that excite it most are kept of each unit.
        batch_size: images that go through the network at once.
        num_workers: processes that read images beside the network; 0 reads in this one.
        device: where the network runs; None leaves it where it is.
        cache_dir: folder of the temporary files.
        seed: of the controls.
        progress: show how far it is.

    Returns:
        Layer to dissection, and `layer:control` to that of each control.

    Raises:
        InputError: a layer does not exist or puts out no maps, an activation is not finite, or an option is impossible.
    """
    rules = Rules(quantile, iou_threshold, presence)
    if unknown := [control for control in controls if control not in CONTROLS]:
        raise InputError(f"controls={unknown[0]}: expected {' or '.join(CONTROLS)}")
    if len(concepts) == 0:
        raise InputError(f"{concepts.name}: there are no images")
    if "labels" in controls and len(concepts) < 2:
        raise InputError("controls=labels: exchanges the annotations of images, and there is only one")
    find_layers(model, layers)
    target = torch.device(device) if device is not None else _device_of(model)
    show = track if progress else _pass_on
    views = [_View(layer, control, rules, examples, seed) for layer in layers for control in (PLAIN, *controls)]
    loader = DataLoader(
        _Reader(concepts), batch_size=batch_size, num_workers=num_workers, collate_fn=_as_list, shuffle=False
    )
    with Spool(cache_dir) as spool:
        prepare = preprocessing_of(preprocessing)
        batches = show(loader, description="activations", total=len(loader))
        for layer, names, maps in _forward(model.to(target), layers, prepare, batches, spool, target):
            for view in views:
                if view.layer == layer:
                    view.observe(maps, names, len(concepts))
        order = _derangement(len(concepts), seed)
        for view in show(views, description="counting", total=len(views)):
            view.count(spool, concepts, target, order if view.control == "labels" else range(len(concepts)))
    return {view.name: view.result(concepts) for view in views}


def dissect_activations(
    activations: Tensor,
    concepts: ConceptDataset,
    *,
    thresholds: Tensor | None = None,
    layer: str = "given",
    quantile: float = QUANTILE,
    iou_threshold: float = IOU_THRESHOLD,
    presence: Presence = "lite",
) -> Dissection:
    """Dissect activations that are at hand.

    Args:
        activations: of all images, in their order, float [images, u, h, w].
        concepts: the images' annotations.
        thresholds: of the units, float64 [u]; None takes the quantile of the activations.
        layer: a name for the result.
        quantile, iou_threshold, presence: see `Rules`.

    Raises:
        InputError: an activation is not finite, there are not as many as images, or an option is impossible.
    """
    rules = Rules(quantile, iou_threshold, presence)
    if len(activations) != len(concepts):
        raise InputError(f"{concepts.name} has {len(concepts)} images, activations were given for {len(activations)}")
    view = _View(layer, PLAIN, rules, 0, 0)
    with Spool() as spool:
        for start in range(0, len(activations), 32):
            items = [concepts[i] for i in range(start, min(start + 32, len(activations)))]
            for item in items:
                spool.add_annotation(Annotation.of(item.pixels, item.scalars))
            maps = activations[start : start + len(items)].detach().float()
            view.observe(maps, [item.name for item in items], len(concepts))
            spool.add_maps(layer, maps)
        view.given = None if thresholds is None else thresholds.double()
        view.count(spool, concepts, torch.device("cpu"), range(len(concepts)))
    return view.result(concepts)


@dataclass
class _View:
    """A layer, or a control of it, as it is dissected."""

    layer: str
    control: str
    rules: Rules
    examples: int
    seed: int
    given: Tensor | None = None
    _quantile: UpperQuantile | None = None
    _examples: Examples | None = None
    _rotation: Tensor | None = None
    _thresholds: Tensor = field(default_factory=lambda: torch.empty(0))
    _counts: Counts | None = None
    _seen: int = 0
    _shape: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.layer}:{self.control}" if self.control else self.layer

    def observe(self, maps: Tensor, names: Sequence[str], images: int) -> None:
        """Take in the maps [b, u, h, w] of the next images, of `images` in all."""
        if not self._shape:
            self._shape = tuple(maps.shape[1:])
            units, height, width = self._shape
            self._quantile = UpperQuantile(self.rules.quantile, images * height * width)
            if self.control == "rotation":
                self._rotation = _random_rotation(units, self.seed).to(maps.device)
        if self._shape != tuple(maps.shape[1:]):
            raise InputError(
                f"layer={self.layer}: the map of {names[0]} is {list(maps.shape[1:])}, of images before "
                f"{list(self._shape)}: the images must have one size"
            )
        _check_finite(self.layer, maps, names)
        turned = self._turn(maps)
        assert self._quantile is not None
        self._quantile.add(turned.transpose(0, 1).flatten(1))
        if self.examples:
            self._examples = _most_exciting(self._examples, turned, self._seen, self.examples)
        self._seen += len(maps)

    def _turn(self, maps: Tensor) -> Tensor:
        if self._rotation is None:
            return maps
        return torch.einsum("vu,buhw->bvhw", self._rotation, maps)

    def count(self, spool: Spool, concepts: ConceptDataset, device: torch.device, order: Sequence[int]) -> None:
        """Count all images, the i-th with the annotation of the order[i]-th."""
        assert self._quantile is not None
        thresholds = self._quantile.thresholds() if self.given is None else self.given
        primary = concepts.primary.to(device)
        labels, categories = len(concepts.labels), len(concepts.categories)
        counts = Counts.zeros(self._shape[0], labels, categories, device)
        exact = thresholds if device.type == "mps" else thresholds.to(device)
        step = max(1, _TALLY_VALUES // max(1, self._shape[0] * self._shape[1] * self._shape[2]))
        for start in range(0, len(order), step):
            stop = min(start + step, len(order))
            annotations = [spool.annotation(order[index]) for index in range(start, stop)]
            maps = self._turn(spool.maps(self.layer, start, stop).to(device))
            for first, last in _runs([annotation.size for annotation in annotations]):
                masks = Masks.of(annotations[first:last]).to(device)
                add(counts, maps[first:last], exact, masks, primary, self.rules.presence)
        self._thresholds = thresholds.cpu()
        self._counts = counts.cpu()

    def result(self, concepts: ConceptDataset) -> Dissection:
        assert self._counts is not None
        return Dissection(
            layer=self.layer,
            concepts=concepts.name,
            images=self._seen,
            counts=self._counts,
            thresholds=self._thresholds,
            labels=tuple(concepts.labels),
            categories=tuple(concepts.categories),
            primary=concepts.primary,
            quantile=self.rules.quantile if self.given is None else None,
            iou_threshold=self.rules.iou_threshold,
            presence=self.rules.presence,
            control=self.control,
            examples=self._examples,
        )


class _Item(NamedTuple):
    """An image as it travels from where it is read."""

    image: Tensor
    annotation: Annotation
    name: str


class _Reader(Dataset[_Item]):
    """Reads images and packs their annotations, maybe in a process of its own."""

    def __init__(self, concepts: ConceptDataset) -> None:
        self._concepts = concepts

    def __len__(self) -> int:
        return len(self._concepts)

    def __getitem__(self, index: int) -> _Item:
        image, pixels, scalars, name = self._concepts[index]
        return _Item(image, Annotation.of(pixels, scalars), name)


def _as_list(items: list[_Item]) -> list[_Item]:
    return items


def _forward(
    model: nn.Module,
    layers: Sequence[str],
    prepare: Callable[[Tensor], Tensor],
    batches: Iterator[list[_Item]],
    spool: Spool,
    device: torch.device,
) -> Iterator[tuple[str, list[str], Tensor]]:
    """Run the network; yields each layer's maps with the images' names, and leaves them in the spool."""
    with tapped(model, layers) as found:
        for items in batches:
            for item in items:
                spool.add_annotation(item.annotation)
            for first, last in _runs([item.image.shape for item in items]):
                same = items[first:last]
                model(prepare(torch.stack([item.image for item in same]).to(device)))
                for layer in layers:
                    if layer not in found:
                        raise InputError(f"layer={layer}: the network does not use it when it sees an image")
                    maps = found.pop(layer)
                    spool.add_maps(layer, maps.cpu())
                    yield layer, [item.name for item in same], maps


def _runs(sizes: Sequence[object]) -> Iterator[tuple[int, int]]:
    """Start and stop of each stretch of equal sizes."""
    start = 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or sizes[stop] != sizes[start]:
            yield start, stop
            start = stop


def _check_finite(layer: str, maps: Tensor, names: Sequence[str]) -> None:
    # A sum is finite only if all its terms are; it may overflow without them, so the terms decide.
    if torch.isfinite(maps.sum()):
        return
    bad = (~torch.isfinite(maps)).flatten(2).any(2)
    if bad.any():
        image, unit = bad.nonzero()[0].tolist()
        raise InputError(f"layer={layer}: the activation of unit {unit} for the image {names[image]} is not finite")


def _most_exciting(before: Examples | None, maps: Tensor, seen: int, wanted: int) -> Examples:
    """The `wanted` images of highest activation of each unit, of those before and b more from number `seen` on."""
    peaks, maps = maps.flatten(2).amax(2).T.cpu(), maps.transpose(0, 1).cpu()
    images = torch.arange(seen, seen + maps.shape[1]).expand(len(maps), -1)
    if before is not None:
        images = torch.cat([before.images, images], 1)
        peaks = torch.cat([before.peaks, peaks], 1)
        maps = torch.cat([before.maps, maps], 1)
    chosen = peaks.argsort(dim=1, descending=True, stable=True)[:, :wanted]
    unit = torch.arange(len(maps))[:, None]
    return Examples(images[unit, chosen], peaks[unit, chosen], maps[unit, chosen])


def _random_rotation(units: int, seed: int) -> Tensor:
    """A random orthogonal matrix, uniform among all (Haar), float32 [u, u]."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(units, units, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).float()


def _derangement(images: int, seed: int) -> list[int]:
    """A random order in which no image keeps its place (unless there is only one)."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed)).tolist()
    # One cycle through all images: each takes the place of the next one in a random round.
    following = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [following[index] for index in range(images)]


def _device_of(model: nn.Module) -> torch.device:
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _pass_on(items: Iterable[T], *, description: str, total: int | None = None) -> Iterator[T]:
    yield from items
