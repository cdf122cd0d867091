"""A comparison of a sweep's arms over seeds, as numbers and in the forms that people paste."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

OBJECTIVE = "objective"  # what a search optimises, among the metrics

# With more arms than these, or longer names, each arm is a row.
MOST_COLUMNS, LONGEST = 6, 30
ARROWS = {"↑": max, "↓": min}
# What pandas does not escape for LaTeX; the last two mark what is bold.
_LATEX = {"±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "\0": r"\textbf{", "\1": "}"}


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a sweep.

    Attributes:
        arm: what was varied, except for the seed.
        seed: seed of the run.
        metrics: numbers by metric.
        status: as of `sweeps.jobs.Record`, or `broken` where its numbers cannot be read. Only finished runs
            have numbers that count.
    """

    arm: str
    seed: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    status: str = "finished"


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A part of a study.

    Attributes:
        heading: heading of the part.
        cells: a text per row and arm (column).
        best: positions of the best arms in each row; empty where the part marks none.
    """

    heading: str
    cells: DataFrame
    best: Sequence[frozenset[int]] = ()


def compare_arms(runs: Sequence[Run], names: Mapping[str, str]) -> list[Block]:
    """Compare the arms: mean ± standard deviation over seeds, and differences to the first arm, paired by seed.

    Args:
        runs: the runs of one sweep.
        names: metric to heading. A heading that ends with ↑ or ↓ says what is better: there the best mean of several
            arms is marked.

    Returns:
        One block, or two if there are several arms; none if no run has any of the metrics. A search, which has an
        `OBJECTIVE`, gets no differences.
    """
    import pandas as pd

    finished = [run for run in runs if run.status == "finished"]
    shown = [name for name in names if any(name in run.metrics for run in finished)]
    if not shown:
        return []
    arms = list(dict.fromkeys(run.arm for run in runs))
    labels = labels_of(arms)
    # One row per number: a metric that is NaN differs from one that is missing.
    rows = [(name, run.arm, run.seed, run.metrics[name]) for run in finished for name in shown if name in run.metrics]
    numbers = pd.DataFrame(rows, columns=["metric", "arm", "seed", "value"])
    cells = _pivot(numbers, spread, shown, arms).rename(index=names)
    cells.loc["seeds"] = [_seeds([run for run in runs if run.arm == arm]) for arm in arms]
    cells = cells.iloc[[-1, *range(len(shown))]].set_axis(labels, axis="columns")
    means = _pivot(numbers, mean, shown, arms, missing=math.nan)
    marked = [best(list(means.loc[name]), names[name]) for name in shown]
    blocks = [Block("mean ± sd over seeds", cells, [frozenset(), *marked])]
    if len(arms) > 1 and OBJECTIVE not in shown:
        pairs = numbers.merge(numbers[numbers["arm"] == arms[0]], on=["metric", "seed"], suffixes=("", "_first"))
        pairs["value"] -= pairs["value_first"]
        cells = _pivot(pairs, lambda values: spread(values, signed=True), shown, arms[1:])
        cells = cells.rename(index=names).set_axis(labels[1:], axis="columns")
        blocks.append(Block(f"difference to {labels[0]}, paired by seed", cells))
    return blocks


def _pivot(
    numbers: DataFrame,
    summary: Callable[[Sequence[float]], object],
    metrics: Sequence[str],
    arms: Sequence[str],
    missing: object = "–",
) -> DataFrame:
    """Summarize the values of each metric (index) and arm (column)."""
    found = numbers.groupby(["metric", "arm"])["value"].agg(lambda values: summary(list(values))).unstack()
    return found.reindex(index=metrics, columns=arms).astype(object).fillna(missing)


def published(arms: Sequence[str], others: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Block]:
    """Arrange published numbers for a study's arms, as they were printed; nothing is computed from them.

    Args:
        arms: the arms of the study.
        others: numbers by heading, row and arm.

    Returns:
        A block per heading with the arms that it has numbers of; none where it has no number of any arm.
    """
    import pandas as pd

    blocks = []
    for heading, rows in others.items():
        known = [arm for arm in arms if any(arm in cells for cells in rows.values())]
        if known:
            cells = pd.DataFrame.from_dict(rows, orient="index").reindex(index=list(rows), columns=known)
            blocks.append(Block(heading, cells.map("{:g}".format, na_action="ignore").astype(object).fillna("–")))
    return blocks


def best(means: Sequence[float], heading: str) -> frozenset[int]:
    """Return which means are best by the heading's arrow; none without an arrow, or if all are equal."""
    choose = ARROWS.get(heading[-1:])
    finite = [value for value in means if math.isfinite(value)]
    if choose is None or len(set(finite)) < 2:
        return frozenset()
    return frozenset(at for at, value in enumerate(means) if value == choose(finite))


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """Format mean ± standard deviation, `0.732 ± 0.074`; one value has no deviation, none or NaN is a dash."""
    if not values or any(math.isnan(value) for value in values):
        return "–"
    sign = "+" if signed else ""
    digits = 3 if max(map(abs, values)) < 10 and any(value != round(value) for value in values) else 1
    middle = f"{mean(values):{sign}.{digits}f}"
    return f"{middle} ± {stdev(values):.{digits}f}" if len(values) > 1 else middle


def labels_of(arms: Sequence[str]) -> tuple[str, ...]:
    """Return the shown names of arms: the last part of a setting's name where it is unique, numbers of four digits."""
    settings = {part.partition("=")[0] for arm in arms for part in arm.split(", ") if "=" in part}
    ends = [name.rpartition(".")[2] for name in settings]
    return tuple(
        ", ".join(
            f"{_end(name, ends)}={_short(value)}" if sign else name
            for name, sign, value in (part.partition("=") for part in arm.split(", "))
        )
        for arm in arms
    )


def _end(name: str, ends: Sequence[str]) -> str:
    end = name.rpartition(".")[2]
    return end if ends.count(end) == 1 else name


def _short(value: str) -> str:
    try:
        return f"{float(value):.4g}" if "." in value or "e" in value else value
    except ValueError:
        return value


def _seeds(runs: Sequence[Run]) -> str:
    """Return the seeds of an arm by status: `1, 2; failed: 3`."""
    by_status: dict[str, list[str]] = {}
    for run in runs:
        by_status.setdefault(run.status, []).append(run.seed)
    parts = [", ".join(filter(None, by_status.pop("finished"))) or "one"] if "finished" in by_status else []
    for status, seeds in by_status.items():
        named = ", ".join(filter(None, seeds))
        parts.append(f"{status}: {named}" if named else status)
    return "; ".join(parts)


def _lines(block: Block, bold: str) -> list[list[str]]:
    """Return the cells with their headings, an arm per column if arms are few and short; the best are set in `bold`."""
    best = block.best or [frozenset[int]()] * len(block.cells)
    body = [
        [str(heading), *(bold.format(cell) if at in marked else cell for at, cell in enumerate(cells))]
        for heading, cells, marked in zip(block.cells.index, block.cells.to_numpy(), best, strict=True)
    ]
    arms = list(block.cells.columns)
    lines = [[block.heading, *arms], *body]
    is_wide = len(arms) > MOST_COLUMNS or max(map(len, arms), default=0) > LONGEST
    return [list(line) for line in zip(*lines, strict=True)] if is_wide else lines


def markdown(blocks: Sequence[Block]) -> str:
    """Format the study as Markdown; the best are bold."""
    tables = []
    for block in blocks:
        lines = [[cell.replace("|", r"\|") for cell in line] for line in _lines(block, "**{}**")]
        head, *body = ["| " + " | ".join(line) + " |" for line in lines]
        tables.append("\n".join([head, "|" + "---|" * len(lines[0]), *body]) + "\n")
    return "\n".join(tables)


def latex(blocks: Sequence[Block]) -> str:
    """Format the study as LaTeX tables for the package booktabs; the best are bold."""
    import pandas as pd

    tables = []
    for block in blocks:
        head, *body = _lines(block, "\0{}\1")
        table = pd.DataFrame(body, columns=head)
        tables.append(table.to_latex(index=False, escape=True, column_format="l" + "c" * (len(head) - 1)))
    text = "\n".join(tables)
    for character, command in _LATEX.items():
        text = text.replace(character, command)
    return text
