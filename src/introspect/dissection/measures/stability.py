"""How stable concept detectors are: over seeds of the training, and over the images that they are probed with.

All of it is ours. Of dissections of one kind: how many detectors and concepts there are, with their standard deviation
(n - 1), and how far the same concepts are detected: the Jaccard index of the sets of concepts (intersection by union),
mean over all pairs. Units are not matched: unit 5 of another seed is another unit. That of two layers without any
concept is undefined, and left out.

Shapes: d dissections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from introspect.core.errors import InputError
from introspect.core.inference import AUTO, chosen_device
from introspect.dissection.comparison import check_comparable
from introspect.dissection.concepts.base import Annotated, ConceptDataset
from introspect.dissection.engine import dissect
from introspect.dissection.measure import MODEL, own_preprocessing
from introspect.dissection.measures.output import Columns, Shown, canvas, check_figure, publish
from introspect.dissection.result import Dissection
from introspect.dissection.rules import IOU_THRESHOLD, QUANTILE, as_names, whole_number
from introspect.dissection.tally import Presence
from introspect.vision.networks import origin

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

Concept = tuple[str, str]


def concepts_of(dissection: Dissection, threshold: float | None = None) -> frozenset[Concept]:
    """The concepts that any unit detects, each with its category."""
    return frozenset((detector.label, detector.category) for detector in dissection.detectors(threshold))


def jaccard(first: frozenset[Concept], second: frozenset[Concept]) -> float | None:
    """Size of the intersection by that of the union, 0 to 1; None of two empty sets."""
    union = first | second
    return len(first & second) / len(union) if union else None


@dataclass(frozen=True)
class Stability:
    """Dissections by kind, compared within each kind.

    groups: name to dissections that differ in seed or in images alone. threshold: of the IoU; None takes their own.
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
        or more dissections. `jaccard`: mean over pairs. `always`: share of all concepts that every dissection has.
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
        """See `Measured`."""
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
            f"dissect/{self.name}/{group}/{number}": value
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

    def shown(self) -> Shown:
        """See `Measured`."""
        rows = []
        for name, group in self.groups.items():
            found = self.summary(name)
            counts = [f"{found[c]:.1f}" + _spread(found.get(f"{c}_deviation")) for c in ("total", "unique")]
            shares = [f"{found[s]:.2f}" if s in found else "-" for s in ("jaccard", "always", "to_all")]
            rows.append([name, str(len(group)), *counts, *shares])
        columns = ("group", "dissections", "detectors", "concepts", "Jaccard", "in all", "Jaccard to all images")
        return Shown("stability of concept detectors", columns, rows, "mean ± sd; these numbers are ours")

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


def stability(
    *,
    network: nn.Module,
    layer: str | Sequence[str],
    concepts: ConceptDataset,
    folder: str | Path,
    shares: Sequence[float] = (0.25, 0.5, 1.0),
    draws: int = 3,
    checkpoint: str | None = None,
    quantile: float = QUANTILE,
    iou_threshold: float = IOU_THRESHOLD,
    presence: Presence = "lite",
    preprocessing: str | Callable[[Tensor], Tensor] | Sequence[Sequence[float]] = MODEL,
    figure: bool = True,
    batch_size: int = 32,
    num_workers: int = 0,
    device: str = AUTO,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    loggers: Iterable[Logger] = (),
) -> dict[str, float]:
    """Dissect a layer with random subsets of the probing images, and compare what it detects.

    Args:
        network, layer, concepts: what is dissected with what; one layer.
        folder: where the files go, see `output.publish`.
        shares: of the images in a subset; 1 takes all of them, once.
        draws: subsets of each other share, without repetition within each.
        checkpoint: whence the weights are, for the reader of the results.
        quantile, iou_threshold, presence, batch_size, num_workers, cache_dir: see `engine.dissect`.
        preprocessing, device: see `measure.measure`.
        figure: whether a figure is drawn.
        seed: of the draws.
        loggers: of the run; they get the table and the figure. The numbers are for the caller to log.

    Returns:
        See `Stability.metrics`; a group is named after its number of images.

    Raises:
        InputError: an option is impossible, or as in `engine.dissect`.
    """
    check_figure(figure)
    whole_number("draws", draws, 1)
    if len(as_names(layer)) != 1:
        raise InputError(f"layer={layer}: measure=stability looks at one layer")
    prepare = own_preprocessing(network) if preprocessing == MODEL else preprocessing
    name, source = origin(network)
    groups: dict[str, tuple[Dissection, ...]] = {}
    for size, parts in _parts(concepts, shares, draws, seed).items():
        found = [
            dissect(
                network,
                layer,
                part,
                quantile=quantile,
                iou_threshold=iou_threshold,
                presence=presence,
                preprocessing=prepare,
                batch_size=batch_size,
                num_workers=num_workers,
                device=chosen_device(device),
                cache_dir=cache_dir,
            )[as_names(layer)[0]]
            for part in parts
        ]
        groups[str(size)] = tuple(replace(each, network=name, checkpoint=checkpoint or source) for each in found)
    total = str(len(concepts))
    return publish(Stability(groups, whole=total if total in groups else None), folder, loggers, figure=figure)


def _parts(concepts: ConceptDataset, shares: Sequence[float], draws: int, seed: int) -> dict[int, list[Part]]:
    """Subsets by their number of images, the smallest first."""
    if not shares or not all(0 < share <= 1 for share in shares):
        raise InputError(
            f"shares={list(shares)}: expected shares of the images above 0, up to 1, such as [0.25, 0.5, 1]"
        )
    generator, total = torch.Generator().manual_seed(seed), len(concepts)
    sizes = sorted({round(share * total) for share in shares})
    if not sizes or sizes[0] < 1:
        raise InputError(f"shares={list(shares)}: of {total} images, the smallest has none")
    return {
        size: [
            Part(concepts, torch.randperm(total, generator=generator)[:size].sort().values)
            for _ in range(1 if size == total else draws)
        ]
        for size in sizes
    }
