"""Accumulators: what a layer and its controls collect while they are dissected.

The control `rotation` sees the layer's maps mixed by a random rotation, `labels` those of permuted images.

Shapes: b images, u units, h x w cells of a feature map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from introspect.core.errors import InputError
from introspect.dissection.activation_cache import ActivationCache
from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.options import Rules, RunOptions
from introspect.dissection.quantiles import UpperQuantile
from introspect.dissection.result import NO_CONTROL, Dissection, Examples
from introspect.dissection.tally import Counts, Masks, add

_TALLY_VALUES = 2**20  # activations that are counted at a time


@dataclass
class Accumulator:
    """Collects, of a layer or a control of it, the thresholds in the first pass and the counts in the second.

    Attributes:
        layer: name of the layer.
        rules: how to count.
        control: empty for the layer itself.
        seed: of the control.
        examples: number of images to keep of each unit.
        leader: the accumulator whose quantile holds here too, because both see the same maps; None has its own.
        number: tells controls of one kind apart, from 1.
        given: thresholds, float64 [u], that take the place of the quantile.
    """

    layer: str
    rules: Rules
    control: str = NO_CONTROL
    seed: int = 0
    examples: int = 0
    leader: Accumulator | None = None
    number: int = 1
    given: Tensor | None = None
    _quantile: UpperQuantile | None = None
    _examples: Examples | None = None
    _rotation: Tensor | None = None
    _thresholds: Tensor | None = None
    _counts: Counts | None = None
    _seen: int = 0
    _shape: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Such as `layer4`, `layer4:rotation` and `layer4:rotation2`."""
        number = str(self.number) if self.number > 1 else ""
        return f"{self.layer}:{self.control}{number}" if self.control else self.layer

    def observe(self, maps: Tensor, names: Sequence[str], images: int) -> None:
        """Take in the maps [b, u, h, w] of the next images, of `images` in all.

        Raises:
            InputError: an activation is not finite, or the maps are not as large as those before.
        """
        if not self._shape:
            self._begin(maps, images)
        if self._shape != tuple(maps.shape[1:]):
            raise InputError(
                f"layer={self.layer}: the map of {names[0]} is {list(maps.shape[1:])}, of images before "
                f"{list(self._shape)}: the images must have one size"
            )
        if not self.control:
            _check_finite(self.layer, maps, names)
        if self._quantile is not None:
            self._quantile.add(self._turn(maps).transpose(0, 1).flatten(1))
        if self.examples:
            self._examples = top_activating(self._examples, maps, self._seen, self.examples)
        self._seen += len(maps)

    def _begin(self, maps: Tensor, images: int) -> None:
        self._shape = tuple(maps.shape[1:])
        units, height, width = self._shape
        if self.leader is None and self.given is None:
            self._quantile = UpperQuantile(self.rules.quantile, images * height * width)
        if self.control == "rotation":
            self._rotation = _random_rotation(units, self.seed).to(maps.device)

    def _turn(self, maps: Tensor) -> Tensor:
        if self._rotation is None:
            return maps
        return torch.einsum("vu,buhw->bvhw", self._rotation, maps)

    def thresholds(self) -> Tensor:
        """Of the units, float64 [u]."""
        if self.leader is not None:
            return self.leader.thresholds()
        if self._thresholds is None:
            self._thresholds = self._quantile.thresholds() if self._quantile is not None else self.given
            self._quantile = None  # all of the memory that grows with the number of images
        assert self._thresholds is not None
        return self._thresholds

    def count(self, cache: ActivationCache, concepts: ConceptDataset, device: torch.device) -> None:
        """Count all images, each with its annotation or, in the control `labels`, with that of another one."""
        images = len(concepts)
        order = derangement(images, self.seed) if self.control == "labels" else range(images)
        thresholds, primary = self.thresholds().to(device), concepts.primary.to(device)
        counts = Counts.zeros(self._shape[0], len(concepts.labels), len(concepts.categories), device)
        step = max(1, _TALLY_VALUES // max(1, self._shape[0] * self._shape[1] * self._shape[2]))
        for start in range(0, images, step):
            stop = min(start + step, images)
            annotations = [cache.annotation(order[index]) for index in range(start, stop)]
            maps = self._turn(cache.maps(self.layer, start, stop).to(device))
            for first, last in runs([annotation.size for annotation in annotations]):
                masks = Masks.of(annotations[first:last]).to(device)
                add(counts, maps[first:last], thresholds, masks, primary, self.rules.presence)
        self._counts = counts.cpu()

    def result(self, concepts: ConceptDataset, network: str = "", preprocessing: str = "") -> Dissection:
        """Return the dissection, with the names of the network and the preprocessing."""
        assert self._counts is not None
        return Dissection(
            layer=self.layer,
            concepts=concepts.name,
            images=self._seen,
            counts=self._counts,
            thresholds=self.thresholds(),
            labels=tuple(concepts.labels),
            categories=tuple(concepts.categories),
            primary=concepts.primary,
            quantile=self.rules.quantile if self.given is None else None,
            iou_threshold=self.rules.iou_threshold,
            presence=self.rules.presence,
            control=self.control,
            seed=self.seed,
            network=network,
            preprocessing=preprocessing,
            examples=self._examples,
        )


def accumulators_of(layer: str, rules: Rules, options: RunOptions) -> list[Accumulator]:
    """Return the accumulators of a layer and of its controls."""
    own = Accumulator(layer, rules, seed=options.seed, examples=options.examples)
    accumulators = [own]
    if "rotation" in options.controls:
        accumulators += [
            Accumulator(layer, rules, "rotation", seed=options.seed + number, number=number + 1)
            for number in range(options.rotations)
        ]
    if "labels" in options.controls:
        accumulators.append(Accumulator(layer, rules, "labels", seed=options.seed, leader=own))
    return accumulators


def runs(sizes: Sequence[object]) -> Iterator[tuple[int, int]]:
    """Yield start and stop of each stretch of equal sizes."""
    start = 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or sizes[stop] != sizes[start]:
            yield start, stop
            start = stop


def top_activating(before: Examples | None, maps: Tensor, seen: int, wanted: int) -> Examples:
    """Return the `wanted` images of highest activation of each unit, of those before and b more from index `seen`."""
    peaks, maps = maps.flatten(2).amax(2).T.cpu(), maps.transpose(0, 1).cpu()
    images = torch.arange(seen, seen + maps.shape[1]).expand(len(maps), -1)
    if before is not None:
        images = torch.cat([before.images, images], 1)
        peaks = torch.cat([before.peaks, peaks], 1)
        maps = torch.cat([before.maps, maps], 1)
    chosen = peaks.argsort(dim=1, descending=True, stable=True)[:, :wanted]
    unit = torch.arange(len(maps))[:, None]
    return Examples(images[unit, chosen], peaks[unit, chosen], maps[unit, chosen])


def derangement(images: int, seed: int) -> list[int]:
    """Return a random order in which no image keeps its place (unless there is only one)."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed)).tolist()
    # One cycle through all images: each takes the place of the next one in a random round.
    following = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [following[index] for index in range(images)]


def _random_rotation(units: int, seed: int) -> Tensor:
    """Draw an orthogonal matrix, uniform among all (Haar), float32 [u, u]."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(units, units, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).float()


def _check_finite(layer: str, maps: Tensor, names: Sequence[str]) -> None:
    # A sum is finite only if all its terms are; it may overflow without them, so the terms decide.
    if torch.isfinite(maps.sum()):
        return
    bad = (~torch.isfinite(maps)).flatten(2).any(2)
    if bad.any():
        image, unit = bad.nonzero()[0].tolist()
        raise InputError(f"layer={layer}: the activation of unit {unit} for the image {names[image]} is not finite")
