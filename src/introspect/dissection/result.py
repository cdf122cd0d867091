"""The result of a dissection: which unit detects which concept, and how many units do.

Shapes: u units, l labels, k categories.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from introspect.dissection.concepts.base import Label
from introspect.dissection.tally import Counts, Presence, iou

NO_CONTROL = ""


class Best(NamedTuple):
    """The best label of each unit, and its best label of each category.

    Attributes:
        label: number of the label, int64 [u]; 0 is none.
        category: index of its category, int64 [u].
        iou: its IoU, float64 [u].
        labels: best label per category, int64 [k, u].
        ious: its IoU, float64 [k, u].
    """

    label: Tensor
    category: Tensor
    iou: Tensor
    labels: Tensor
    ious: Tensor


class Detector(NamedTuple):
    """A unit that detects a concept. `unit` counts from 0."""

    unit: int
    label: str
    category: str
    iou: float


class Examples(NamedTuple):
    """The top-activating images of each unit, highest first.

    Attributes:
        images: index into the concept data set, int64 [u, e].
        peaks: the highest activation in each, float32 [u, e].
        maps: the unit's feature map of each, float32 [u, e, h, w].
    """

    images: Tensor
    peaks: Tensor
    maps: Tensor


@dataclass(frozen=True)
class Dissection:
    """One layer of a network, dissected.

    Attributes:
        layer: name of the layer.
        concepts: name of the concept data set.
        images: number of images.
        counts: pixels, see `tally`.
        thresholds: activation above which each unit is active, float64 [u].
        labels: as in `ConceptDataset`.
        categories: as in `ConceptDataset`.
        primary: as in `ConceptDataset`.
        quantile: fraction of cells above the thresholds; None if these were given.
        iou_threshold: smallest IoU of a detector.
        presence: in which images a category counts, see `tally`.
        control: `NO_CONTROL` for the layer itself; `rotation` if its units were mixed by a random rotation, `labels` if
            every image had the annotation of another one.
        seed: of the control.
        network: name of the network.
        checkpoint: where its weights come from.
        preprocessing: of the pixels, in words.
        examples: None if none were kept.
    """

    layer: str
    concepts: str
    images: int
    counts: Counts
    thresholds: Tensor
    labels: tuple[Label, ...]
    categories: tuple[str, ...]
    primary: Tensor
    quantile: float | None
    iou_threshold: float
    presence: Presence
    control: str = NO_CONTROL
    seed: int = 0
    network: str = ""
    checkpoint: str = ""
    preprocessing: str = ""
    examples: Examples | None = None

    @property
    def units(self) -> int:
        """Number of units of the layer."""
        return len(self.thresholds)

    def settings(self) -> dict[str, str]:
        """Describe in words how it was made: what to know before two dissections are compared."""
        return {
            "network": self.network or "unnamed",
            "checkpoint": self.checkpoint or "none named",
            "layer": self.layer,
            "concepts": f"{self.concepts}: {', '.join(self.categories)}",
            "images": str(self.images),
            "preprocessing": self.preprocessing or "of activations that were given",
            "presence": self.presence,
            "quantile": "thresholds were given" if self.quantile is None else str(self.quantile),
            "IoU threshold": str(self.iou_threshold),
            "control": self.control or "none",
            "seed": str(self.seed),
        }

    @cached_property
    def iou(self) -> Tensor:
        """Intersection over union of each unit and label, float64 [u, l]."""
        return iou(self.counts, self.primary)

    @cached_property
    def best(self) -> Best:
        """The best labels. Of equal ones the lowest number wins, of equally good categories the last one.

        A unit without any overlap has label 0 and the last category.
        """
        members = self.primary == torch.arange(len(self.categories))[:, None]
        ious, labels = (self.iou * members[:, None]).max(2)
        labels = labels.where(ious > 0, 0)
        category = len(self.categories) - 1 - ious.flip(0).argmax(0)
        unit = torch.arange(self.units)
        return Best(labels[category, unit], category, ious[category, unit], labels, ious)

    def detectors(self, threshold: float | None = None) -> list[Detector]:
        """Return the units whose best IoU is at least the threshold, best first.

        Args:
            threshold: another one than the dissection's own.
        """
        best = self.best
        order = best.iou.argsort(descending=True, stable=True)
        limit = self.iou_threshold if threshold is None else threshold
        chosen = order[best.iou[order] >= limit]
        rows = zip(chosen.tolist(), *(column[chosen].tolist() for column in best[:3]), strict=True)
        return [
            Detector(unit, self.labels[label].name, self.categories[category], value)
            for unit, label, category, value in rows
        ]

    def by_category(self, threshold: float | None = None) -> dict[str, int]:
        """Count the detectors of each category, zeros included."""
        found = Counter(detector.category for detector in self.detectors(threshold))
        return {category: found[category] for category in self.categories}

    def unique(self, threshold: float | None = None) -> dict[str, int]:
        """Count the detectors of each concept that has any, most first."""
        return dict(Counter(detector.label for detector in self.detectors(threshold)).most_common())

    def summary(self, threshold: float | None = None) -> dict[str, int]:
        """Count `total` detectors, `unique` concepts among them, and the detectors of each category under its name."""
        by_category = self.by_category(threshold)
        return {"total": sum(by_category.values()), "unique": len(self.unique(threshold)), **by_category}


def display(name: str) -> str:
    """Return a label for display: without Broden's suffixes `-c` (color) and `-s` (scene)."""
    return name[:-2] if name.endswith(("-c", "-s")) else name
