"""How stable concept detectors are: over seeds of the training, and over the images that they are probed with.

All of it is ours. Of dissections of one kind: how many detectors and concepts there are, with their standard deviation
(n - 1), and how far the same concepts are detected: the Jaccard index of the sets of concepts (intersection by union),
mean over all pairs. Units are not matched: unit 5 of another seed is another unit. That of two layers without any
concept is undefined, and left out.

Shapes: d dissections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from introspect.core.errors import InputError
from introspect.dissection.comparison import check_comparable
from introspect.dissection.concepts.base import Annotated, ConceptDataset
from introspect.dissection.measures.base import Columns, PublishedMeasure, Result, canvas
from introspect.dissection.measures.detectors import LayerMeasure
from introspect.dissection.options import as_names, whole_number
from introspect.dissection.report.tables import TextTable
from introspect.dissection.result import Dissection

Concept = tuple[str, str]


def concepts_of(dissection: Dissection, threshold: float | None = None) -> frozenset[Concept]:
    """Return the concepts that any unit detects, each with its category."""
    return frozenset((detector.label, detector.category) for detector in dissection.detectors(threshold))


def jaccard(first: frozenset[Concept], second: frozenset[Concept]) -> float | None:
    """Return the size of the intersection / that of the union, 0 to 1; None of two empty sets."""
    union = first | second
    return len(first & second) / len(union) if union else None


@dataclass(frozen=True)
class StabilityResult(Result):
    """Dissections by kind, compared within each kind.

    Attributes:
        groups: name to dissections that differ in seed or in images alone.
        threshold: smallest IoU of a detector; None takes their own.
        whole: the group of the one dissection of all images, if there is one.

    Raises:
        InputError: there are none, or those of a group were not made in the same way.
    """

    groups: Mapping[str, tuple[Dissection, ...]]
    threshold: float | None = None
    whole: str | None = None

    name = "stability"
    source = "Ours: counts over seeds or over subsets of the probing images, and Jaccard indices of their concepts."

    def __post_init__(self) -> None:
        if not self.groups or not all(self.groups.values()):
            raise InputError("stability: needs at least one dissection")
        for name, group in self.groups.items():
            check_comparable({name: list(group)}, self.threshold)

    def summary(self, name: str) -> dict[str, float]:
        """Numbers of a group, as far as it has them.

        `total`, `unique`: mean number of detectors and of concepts, with `total_deviation`, `unique_deviation` of two
        or more dissections. `jaccard`: mean over pairs. `always`: fraction of all concepts that every dissection has.
        `to_all`: mean Jaccard index with the dissection of all images.
        """
        group = self.groups[name]
        found: dict[str, float] = {}
        for count in ("total", "unique"):
            values = [each.summary(self.threshold)[count] for each in group]
            found[count] = fmean(values)
            if len(values) > 1:
                found[f"{count}_deviation"] = stdev(values)
        sets = [concepts_of(each, self.threshold) for each in group]
        pairs = [jaccard(*pair) for pair in combinations(sets, 2)]
        found |= _mean("jaccard", pairs)
        if len(sets) > 1 and (union := frozenset().union(*sets)):
            found["always"] = len(frozenset.intersection(*sets)) / len(union)
        if self.whole is not None and name != self.whole:
            (everything,) = self.groups[self.whole]
            found |= _mean("to_all", [jaccard(each, concepts_of(everything, self.threshold)) for each in sets])
        return found

    def settings(self) -> dict[str, Any]:
        """See `Result`."""
        first = next(iter(self.groups.values()))[0]
        shown = {key: value for key, value in first.settings().items() if key not in ("images", "seed", "checkpoint")}
        if self.threshold is not None:
            shown["IoU threshold"] = str(self.threshold)
        dissected = {
            name: [{"checkpoint": each.checkpoint, "images": each.images} for each in group]
            for name, group in self.groups.items()
        }
        return {**shown, "dissections": dissected}

    def metrics(self) -> dict[str, float]:
        """`dissect/stability/<group>/<number>` of each `summary`."""
        return {
            f"{self.place}/{group}/{number}": value
            for group in self.groups
            for number, value in self.summary(group).items()
        }

    def tables(self) -> dict[str, Columns]:
        """`concepts`: in how many dissections of its group each concept is detected, a row per group and concept."""
        rows = [
            (name, label, category, times, len(group))
            for name, group in self.groups.items()
            for (label, category), times in sorted(
                Counter(c for each in group for c in concepts_of(each, self.threshold)).items()
            )
        ]
        header = ("group", "concept", "category", "detected", "dissections")
        return {"concepts": {key: [row[i] for row in rows] for i, key in enumerate(header)}} if rows else {}

    def text_table(self) -> TextTable:
        """See `Result`."""
        rows = []
        for name, group in self.groups.items():
            found = self.summary(name)
            counts = [f"{found[c]:.1f}" + _spread(found.get(f"{c}_deviation")) for c in ("total", "unique")]
            shares = [f"{found[s]:.2f}" if s in found else "-" for s in ("jaccard", "always", "to_all")]
            rows.append([name, str(len(group)), *counts, *shares])
        columns = ("group", "dissections", "detectors", "concepts", "Jaccard", "in all", "Jaccard to all images")
        return TextTable("stability of concept detectors", columns, rows, "mean ± sd; these numbers are ours")

    def figures(self) -> dict[str, Any]:
        """`counts`: detectors and concepts of each group; Jaccard indices of all dissections."""
        figure, axes = canvas(1, 2, 4.2, 3.2)
        names = list(self.groups)
        for count, label in (("total", "detectors"), ("unique", "concepts")):
            found = [self.summary(name) for name in names]
            spread = [each.get(f"{count}_deviation", 0.0) for each in found]
            axes[0][0].errorbar(names, [each[count] for each in found], spread, marker="o", capsize=3, label=label)
        axes[0][0].set(title="mean and sd", ylim=(0, None))
        axes[0][0].legend()
        sets = [concepts_of(each, self.threshold) for group in self.groups.values() for each in group]
        matrix = [[float("nan") if (j := jaccard(a, b)) is None else j for b in sets] for a in sets]
        figure.colorbar(axes[0][1].imshow(matrix, vmin=0, vmax=1, cmap="Blues"), ax=axes[0][1])
        axes[0][1].set(title="Jaccard index of concepts")
        return {"counts": figure}


def _mean(name: str, values: Iterable[float | None]) -> dict[str, float]:
    there = [value for value in values if value is not None]
    return {name: fmean(there)} if there else {}


def _spread(deviation: float | None) -> str:
    return "" if deviation is None else f" ± {deviation:.1f}"


class Part:
    """Some images of a concept data set, itself one."""

    def __init__(self, whole: ConceptDataset, indices: Tensor) -> None:
        self._whole, self._indices = whole, indices.tolist()
        self.name, self.categories = whole.name, whole.categories
        self.labels, self.primary = whole.labels, whole.primary

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Annotated:
        return self._whole[self._indices[index]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stability(LayerMeasure, PublishedMeasure):
    """Dissect a layer with random subsets of the probing images, and compare its detectors.

    Each group of the result is named after its number of images.

    Attributes:
        shares: fractions of the images in a subset; 1 takes all of them, once.
        draws: subsets of each other fraction, without repetition within each.
    """

    shares: Sequence[float] = (0.25, 0.5, 1.0)
    draws: int = 3

    def check(self) -> None:
        """See `Measure`."""
        whole_number("draws", self.draws, 1)
        if len(as_names(self.layer)) != 1:
            raise InputError(f"layer={self.layer}: measure=stability takes one layer")
        super().check()

    def result(self) -> StabilityResult:
        """Dissect with each subset."""
        groups = {
            str(size): tuple(found for part in parts for found in self.dissect(part).values())
            for size, parts in _parts(self.concepts, self.shares, self.draws, self.seed).items()
        }
        total = str(len(self.concepts))
        return StabilityResult(groups, whole=total if total in groups else None)


def _parts(concepts: ConceptDataset, shares: Sequence[float], draws: int, seed: int) -> dict[int, list[Part]]:
    """Subsets by their number of images, the smallest first."""
    if not shares or not all(0 < fraction <= 1 for fraction in shares):
        raise InputError(
            f"shares={list(shares)}: expected fractions of the images above 0, up to 1, such as [0.25, 0.5, 1]"
        )
    generator, total = torch.Generator().manual_seed(seed), len(concepts)
    sizes = sorted({round(fraction * total) for fraction in shares})
    if not sizes or sizes[0] < 1:
        raise InputError(f"shares={list(shares)}: of {total} images, the smallest has none")
    return {
        size: [
            Part(concepts, torch.randperm(total, generator=generator)[:size].sort().values)
            for _ in range(1 if size == total else draws)
        ]
        for size in sizes
    }
