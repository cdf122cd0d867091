"""Several dissections side by side, with bootstrap intervals over units.

Another training run would have other units: so the units of each dissection are drawn with replacement, and counted
again. The interval says how far the count of a layer with other units of this kind may be from this one; it does not
say how far that of another seed may be, which takes runs of several seeds. A resample never has more distinct concepts
than the layer itself and mostly has fewer, so the replicates are shifted to have the count itself as their mean.
Several dissections of one kind, such as random rotations, count as their mean; each replicate is of one of them drawn
at random, so that the interval includes the spread between them.

Shapes: u units, r replicates, k categories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from introspect.core.errors import InputError
from introspect.dissection.report.tables import TextTable
from introspect.dissection.result import Dissection

if TYPE_CHECKING:
    from rich.table import Table

RESAMPLES = 2000


class Estimate(NamedTuple):
    """A count, or a difference of counts, and the 2.5th and 97.5th percentile of its replicates."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Counts of several dissections, and how much each differs from the first: name to `total`, … to estimate."""

    counts: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Estimate]]

    def rows(self) -> list[list[str]]:
        """Return a row per count: its name, then its value and interval in each dissection, as text: `31 [24, 38]`."""
        return _rows(self.counts)

    def table(self) -> Table:
        """Return a table for the terminal: a row per dissection; categories without any detector are left out."""
        names, *columns = zip(*self.rows(), strict=True)
        found = [
            place
            for place, name in enumerate(names)
            if name in ("total", "unique") or any(counts[name].value for counts in self.counts.values())
        ]
        header = ["detectors", *(names[place] for place in found)]
        rows = [[name, *(cells[place] for place in found)] for name, cells in zip(self.counts, columns, strict=True)]
        caption = "concept detectors; in brackets: 95 % bootstrap intervals over units"
        return TextTable("", header, rows, caption).table(no_wrap=True)

    def markdown(self) -> str:
        """Return the counts, and how they differ from the first dissection, as Markdown."""
        text = _markdown(["detectors", *self.counts], self.rows())
        if self.differences:
            header = ["difference", *(f"{name} - {next(iter(self.counts))}" for name in self.differences)]
            text += "\n" + _markdown(header, _rows(self.differences, "+"))
        return text + "\nIn brackets: 95 % bootstrap intervals over units.\n"


def _rows(estimates: Mapping[str, Mapping[str, Estimate]], sign: str = "") -> list[list[str]]:
    columns = next(iter(estimates.values()))
    return [[name, *(_cell(counts[name], sign) for counts in estimates.values())] for name in columns]


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def compare_dissections(
    dissections: Mapping[str, Dissection | Sequence[Dissection]],
    *,
    threshold: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Count the detectors of several dissections, each with its interval.

    Args:
        dissections: by name, one or several of a kind; the others are compared with the first.
        threshold: smallest IoU of a detector; None takes that of the dissections.
        resamples: number of replicates.
        seed: of the draws.

    Raises:
        InputError: there are none, they were not made in the same way, or `resamples` is not positive.
    """
    if not dissections:
        raise InputError("a comparison needs at least one dissection")
    if resamples < 1:
        raise InputError(f"bootstrap resamples: got {resamples}, expected 1 or more")
    groups = {name: [d] if isinstance(d, Dissection) else list(d) for name, d in dissections.items()}
    check_comparable(groups, threshold)
    order = ["total", "unique", *next(iter(groups.values()))[0].categories]
    values, replicates = {}, {}
    for number, (name, group) in enumerate(groups.items()):
        summaries = [dissection.summary(threshold) for dissection in group]
        values[name] = torch.tensor([[float(summary[column]) for column in order] for summary in summaries]).mean(0)
        parts = [_replicates(dissection, order[2:], threshold, resamples, seed + number) for dissection in group]
        one = torch.randint(len(group), (resamples,), generator=torch.Generator().manual_seed(seed + number))
        replicates[name] = torch.stack(parts)[one, torch.arange(resamples)]
    first = next(iter(values))
    return Comparison(
        {name: _estimates(order, values[name], replicates[name], least=0.0) for name in values},
        {
            name: _estimates(order, values[name] - values[first], replicates[name] - replicates[first])
            for name in values
            if name != first
        },
    )


def check_comparable(groups: Mapping[str, Sequence[Dissection]], threshold: float | None) -> None:
    """Refuse dissections that were made in different ways.

    Raises:
        InputError: naming the first difference.
    """
    named = [(name, dissection) for name, group in groups.items() for dissection in group]
    first = _made(named[0][1], threshold)
    for name, dissection in named[1:]:
        for what, value in _made(dissection, threshold).items():
            if value != first[what]:
                raise InputError(
                    f"dissections of different {what} cannot be compared "
                    f"({named[0][0]}: {_shown(first[what], value)}; {name}: {_shown(value, first[what])})"
                    + ("; give one threshold for all" if what == "IoU threshold" else "")
                )


def _made(dissection: Dissection, threshold: float | None) -> dict[str, object]:
    """Return what must be the same."""
    return {
        "concepts": dissection.concepts,
        "categories": frozenset(dissection.categories),
        "labels": frozenset(f"{label.name} ({label.category})" for label in dissection.labels if label.name),
        "images": dissection.images,
        "presence": dissection.presence,
        "quantile": dissection.quantile,
        "IoU threshold": dissection.iou_threshold if threshold is None else threshold,
    }


def _shown(value: object, other: object) -> str:
    """Describe a value; of a set, some of what the other one lacks."""
    if not isinstance(value, frozenset) or not isinstance(other, frozenset):
        return str(value)
    own = sorted(value - other)
    return ", ".join(own[:5]) + (f" and {len(own) - 5} more" if len(own) > 5 else "") if own else "without these"


def _replicates(
    dissection: Dissection, categories: Sequence[str], threshold: float | None, resamples: int, seed: int
) -> Tensor:
    """Return total, unique and per-category counts of each resample, float32 [r, 2 + k]."""
    best = dissection.best
    limit = dissection.iou_threshold if threshold is None else threshold
    detects = best.iou >= limit
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(dissection.units, (resamples, dissection.units), generator=generator)
    # How often each detector was drawn; what each detects, by name and by category.
    weights = torch.zeros(resamples, dissection.units).scatter_add_(1, drawn, torch.ones(drawn.shape))[:, detects]
    names: dict[str, int] = {}
    label = torch.tensor(
        [names.setdefault(dissection.labels[index].name, len(names)) for index in best.label[detects].tolist()],
        dtype=torch.int64,
    )
    place = torch.tensor([categories.index(category) for category in dissection.categories])
    category = place[best.category[detects]]
    by_category = torch.zeros(resamples, len(categories)).index_add_(1, category, weights)
    by_name = torch.zeros(resamples, len(names)).index_add_(1, label, weights)
    return torch.cat([weights.sum(1, keepdim=True), (by_name > 0).sum(1, keepdim=True), by_category], dim=1)


def _estimates(
    order: Sequence[str], values: Tensor, replicates: Tensor, least: float = -torch.inf
) -> dict[str, Estimate]:
    centred = (replicates - replicates.mean(0) + values).to(torch.float64).clamp(min=least)
    low, high = centred.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    rows = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    return {name: Estimate(*row) for name, row in zip(order, rows, strict=True)}


def _cell(estimate: Estimate, sign: str = "") -> str:
    low, high = round(estimate.low), round(estimate.high)  # whole numbers have no -0
    digits = 0 if float(estimate.value).is_integer() else 1  # means of several have fractions
    return f"{estimate.value:{sign}.{digits}f} [{low}, {high}]"
