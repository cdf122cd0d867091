"""Dissect layers of a network: one pass over the images for the thresholds, one over cached activations to count.

The first pass reads every image once, runs the network once, updates the upper quantile of each unit and caches feature
maps and annotations in temporary files; the second one counts. Memory does not grow with the number of images, except
for the quantile's candidates (a fraction 1.5 q of one layer's activations, per layer and per rotation).

Shapes: b images, u units, h x w cells of a feature map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from introspect.core.errors import InputError
from introspect.core.inference import device_of, float64_device, moved
from introspect.core.progress import track
from introspect.dissection.accumulators import Accumulator, accumulators_of, runs
from introspect.dissection.activation_cache import ActivationCache
from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.options import IOU_THRESHOLD, QUANTILE, RunOptions, as_controls, as_names
from introspect.dissection.options import Rules as Rules
from introspect.dissection.result import Dissection
from introspect.dissection.tally import Annotation, Presence
from introspect.vision.hooks import feature_maps, find_layers
from introspect.vision.preprocessing import Preprocess, described
from introspect.vision.preprocessing import preprocessing as preprocessing_of

T = TypeVar("T")


def dissect(
    model: nn.Module,
    layers: str | Sequence[str],
    concepts: ConceptDataset,
    *,
    quantile: float = QUANTILE,
    iou_threshold: float = IOU_THRESHOLD,
    presence: Presence = "lite",
    preprocessing: str | Callable[[Tensor], Tensor] | Sequence[Sequence[float]] = "reference",
    controls: str | Sequence[str] = (),
    rotations: int = 1,
    examples: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
    device: torch.device | str | None = None,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Dissection]:
    """Dissect layers of a netoptions.

    Args:
        model: any network that takes in images; it is restored afterwards, also after an error.
        layers: names of modules that put out feature maps.
        concepts: the images and what is in them. Images of different sizes are not batched together, but a layer's
            maps must have one size.
        quantile, iou_threshold, presence: see `Rules`.
        preprocessing: of the pixels, see `preprocessing.preprocessing`.
        controls: what to count next to each layer: `rotation` (its units mixed by a random orthogonal matrix: as good
            a basis, but no natural one) and `labels` (each image with the annotation of another one: chance level).
        rotations: number of random rotations, of the seeds `seed`, `seed + 1`, …
        examples: top-activating images to keep of each unit.
        batch_size: images that go through the network at once.
        num_workers: processes that read, decode and stack images while the network runs, two batches ahead each; 0
            does so in this one. For CUDA, batches are put into pinned memory and copied while the network runs.
        device: where the network runs; None leaves it where it is. On MPS only the network does: the counting needs
            float64.
        cache_dir: folder of the temporary files; None takes the system's.
        seed: of the controls.
        progress: whether to show progress.

    Returns:
        Layer to dissection, and `layer:rotation`, `layer:rotation2`, …, `layer:labels` to that of each control.

    Raises:
        InputError: a layer does not exist or puts out no maps, an activation is not finite, an option is impossible,
            or the disk is too small for the temporary files.
    """
    rules = Rules(quantile, iou_threshold, presence)
    options = RunOptions(as_controls(controls), rotations, examples, batch_size, num_workers, seed)
    prepare = preprocessing_of(preprocessing)
    _check_images(concepts, options)
    layers = as_names(layers)
    find_layers(model, layers)
    target = torch.device(device) if device is not None else device_of(model)
    accumulators = {layer: accumulators_of(layer, rules, options) for layer in layers}
    show = track if progress else _pass_on
    with ActivationCache(cache_dir) as cache:
        reading = _Reading(concepts, prepare, cache, target, accumulators)
        with moved(model, target):
            reading.run(model, options, show)
        flat = [accumulator for found in accumulators.values() for accumulator in found]
        for accumulator in show(flat, description="counting", total=len(flat)):
            accumulator.count(cache, concepts, float64_device(target))
    named = (type(model).__name__, described(prepare))
    return {accumulator.name: accumulator.result(concepts, *named) for accumulator in flat}


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
    """Dissect given activations.

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
    accumulator = Accumulator(layer, rules, given=None if thresholds is None else thresholds.cpu().double())
    with ActivationCache() as cache:
        for start in range(0, len(activations), 32):
            items = [concepts[i] for i in range(start, min(start + 32, len(activations)))]
            for item in items:
                cache.add_annotation(Annotation.of(item.pixels, item.scalars))
            maps = activations[start : start + len(items)].detach().cpu().float()
            accumulator.observe(maps, [item.name for item in items], len(concepts))
            cache.add_maps(layer, maps)
        accumulator.count(cache, concepts, torch.device("cpu"))
    return accumulator.result(concepts)


def _check_images(concepts: ConceptDataset, options: RunOptions) -> None:
    if len(concepts) == 0:
        raise InputError(f"{concepts.name}: there are no images")
    if "labels" in options.controls and len(concepts) < 2:
        raise InputError("controls=labels: permutes the annotations of images, and there is only one")


class _Item(NamedTuple):
    """An image and its annotation, as read."""

    image: Tensor
    annotation: Annotation
    name: str


class _Batch(NamedTuple):
    """A batch as a worker process sends it: images stacked by size, uint8.

    One tensor per size instead of one per image: each tensor from another process costs an open file.
    """

    images: list[Tensor]
    annotations: list[Annotation]
    names: list[str]

    def pin_memory(self) -> _Batch:
        """Pin the images, so that a GPU fetches them while it computes."""
        return self._replace(images=[images.pin_memory() for images in self.images])


class _Reader(Dataset[_Item | InputError]):
    """Reads images and packs their annotations, possibly in a worker process.

    An error is returned like an image: raised there, it would arrive with a traceback of the worker.
    """

    def __init__(self, concepts: ConceptDataset) -> None:
        self._concepts = concepts

    def __len__(self) -> int:
        return len(self._concepts)

    def __getitem__(self, index: int) -> _Item | InputError:
        try:
            image, pixels, scalars, name = self._concepts[index]
        except InputError as error:
            return error
        return _Item(image, Annotation.of(pixels, scalars), name)


def _collated(found: list[_Item | InputError]) -> _Batch | InputError:
    """Collate a batch, or return its first error."""
    items: list[_Item] = []
    for item in found:
        if isinstance(item, InputError):
            return item
        items.append(item)
    images = [item.image for item in items]
    stacks = [torch.stack(images[first:last]) for first, last in runs([image.shape for image in images])]
    return _Batch(stacks, [item.annotation for item in items], [item.name for item in items])


@dataclass(frozen=True, slots=True)
class _Reading:
    """The first pass: what it reads, where it stores it, and the accumulators of each layer."""

    concepts: ConceptDataset
    prepare: Preprocess
    cache: ActivationCache
    device: torch.device
    accumulators: dict[str, list[Accumulator]]

    def run(self, model: nn.Module, options: RunOptions, show: Callable[..., Iterator[_Batch | InputError]]) -> None:
        loader = DataLoader(
            _Reader(self.concepts),
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            collate_fn=_collated,
            shuffle=False,
            pin_memory=self.device.type == "cuda",
        )
        batches = show(loader, description="activations", total=len(loader))
        with feature_maps(model, list(self.accumulators)) as found:
            for number, batch in enumerate(batches):
                if isinstance(batch, InputError):
                    raise batch
                for annotation in batch.annotations:
                    self.cache.add_annotation(annotation)
                names = iter(batch.names)
                for images in batch.images:
                    self._forward(model, images, [*islice(names, len(images))], found)
                if number == 0:
                    self.cache.check_space(len(batch.names), len(self.concepts))

    def _forward(self, model: nn.Module, images: Tensor, names: Sequence[str], found: dict[str, Tensor]) -> None:
        """Run the network on images of one size; each layer's maps go to its accumulators and into the cache."""
        model(self.prepare(images.to(self.device, non_blocking=True)))
        for layer, accumulators in self.accumulators.items():
            if layer not in found:
                raise InputError(f"layer={layer}: the network does not use it when it sees an image")
            maps = found.pop(layer).to(float64_device(self.device))
            self.cache.add_maps(layer, maps.cpu())
            for accumulator in accumulators:
                accumulator.observe(maps, names, len(self.concepts))


def _pass_on(items: Iterable[T], *, description: str, total: int | None = None) -> Iterator[T]:
    yield from items
