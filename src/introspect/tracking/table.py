"""A comparison of a sweep's arms over seeds, as numbers and in the forms that people paste."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev

OBJECTIVE = "objective"  # what a search optimises, among the metrics

# More arms than these, or with longer names, stand below each other.
ABREAST, LONGEST = 6, 30
ARROWS = {"↑": max, "↓": min}
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
}


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a sweep: what was varied but the seed, the seed, what was measured, and what became of it.

    status: as of `sweeps.jobs.Record`, or `broken` where its numbers cannot be read. Only finished runs have numbers
    that count.
    """

    arm: str
    seed: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    status: str = "finished"


@dataclass(frozen=True, slots=True)
class Row:
    """A metric of all arms: its heading, a text per arm, and which of the arms are best."""

    heading: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a study: a heading, the arms, a row per metric."""

    heading: str
    arms: tuple[str, ...]
    rows: tuple[Row, ...]


def compare_arms(runs: Sequence[Run], names: Mapping[str, str]) -> list[Block]:
    """The arms side by side, mean ± standard deviation over seeds, and differences to the first arm, paired by seed.

    Args:
        runs: of one sweep.
        names: metric to heading. A heading that ends with ↑ or ↓ says what is better: there the best mean of several
            arms is marked.

    Returns:
        One block, or two if there are several arms; none if no run has any of the metrics. A search, which has an
        `OBJECTIVE`, gets no differences.
    """
    finished = [run for run in runs if run.status == "finished"]
    shown = [name for name in names if any(name in run.metrics for run in finished)]
    if not shown:
        return []
    arms = tuple(dict.fromkeys(run.arm for run in runs))
    values = {arm: {run.seed: run.metrics for run in finished if run.arm == arm} for arm in arms}
    rows = [Row("seeds", tuple(_seeds([run for run in runs if run.arm == arm]) for arm in arms))]
    for name in shown:
        groups = [[metrics[name] for metrics in values[arm].values() if name in metrics] for arm in arms]
        rows.append(Row(names[name], tuple(map(spread, groups)), best(groups, names[name])))
    labels = labels_of(arms)
    blocks = [Block("mean ± sd over seeds", labels, tuple(rows))]
    if len(arms) > 1 and OBJECTIVE not in shown:
        differences = [
            Row(names[name], tuple(spread(paired(values[arm], values[arms[0]], name), signed=True) for arm in arms[1:]))
            for name in shown
        ]
        blocks.append(Block(f"difference to {labels[0]}, paired by seed", labels[1:], tuple(differences)))
    return blocks


def published(arms: Sequence[str], others: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Block]:
    """Numbers of others beside those of a study, as they were printed; nothing is computed from them.

    Args:
        arms: of the study.
        others: by heading, row and arm.

    Returns:
        A block per heading with the arms that it has numbers of; none where it has no number of any arm.
    """
    blocks = []
    for heading, rows in others.items():
        known = tuple(arm for arm in arms if any(arm in cells for cells in rows.values()))
        found = {row: tuple(f"{cells[arm]:g}" if arm in cells else "–" for arm in known) for row, cells in rows.items()}
        if known:
            blocks.append(Block(heading, known, tuple(Row(row, cells) for row, cells in found.items())))
    return blocks


def paired(one: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]], name: str) -> list[float]:
    """Differences of a metric between two arms, for each seed that both have."""
    return [
        one[seed][name] - other[seed][name]
        for seed in one
        if seed in other and name in one[seed] and name in other[seed]
    ]


def best(groups: Sequence[Sequence[float]], heading: str) -> frozenset[int]:
    """Which groups have the best mean by the heading's arrow; none without an arrow, or if all are alike."""
    choose = ARROWS.get(heading[-1:])
    means = {at: mean(group) for at, group in enumerate(groups) if group and all(map(math.isfinite, group))}
    if choose is None or len(set(means.values())) < 2:
        return frozenset()
    return frozenset(at for at, value in means.items() if value == choose(means.values()))


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """`0.732 ± 0.074`; a single value stands alone, no value or NaN is a dash."""
    if not values or any(math.isnan(value) for value in values):
        return "–"
    sign = "+" if signed else ""
    digits = 3 if max(map(abs, values)) < 10 and any(value != round(value) for value in values) else 1
    middle = f"{mean(values):{sign}.{digits}f}"
    return f"{middle} ± {stdev(values):.{digits}f}" if len(values) > 1 else middle


def labels_of(arms: Sequence[str]) -> tuple[str, ...]:
    """Arms as they are shown: settings by the last part of their names where that is clear, numbers of four digits."""
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
    """Which seeds an arm has, and which it lost and how: `1, 2; failed: 3`."""
    by_status: dict[str, list[str]] = {}
    for run in runs:
        by_status.setdefault(run.status, []).append(run.seed)
    parts = [", ".join(filter(None, by_status.pop("finished"))) or "one"] if "finished" in by_status else []
    for status, seeds in by_status.items():
        named = ", ".join(filter(None, seeds))
        parts.append(f"{status}: {named}" if named else status)
    return "; ".join(parts)


def _grid(block: Block, bold: str) -> list[list[str]]:
    """The block's cells with its headings, arms abreast if they are few and short; the best are set as `bold` says."""
    head = [block.heading, *block.arms]
    body = [
        [row.heading, *(bold.format(cell) if at in row.best else cell for at, cell in enumerate(row.cells))]
        for row in block.rows
    ]
    lines = [head, *body]
    is_abreast = len(block.arms) <= ABREAST and max(map(len, block.arms), default=0) <= LONGEST
    return lines if is_abreast else [list(line) for line in zip(*lines, strict=True)]


def markdown(blocks: Sequence[Block]) -> str:
    """The study as Markdown; the best are bold."""
    tables = []
    for block in blocks:
        lines = [[cell.replace("|", r"\|") for cell in line] for line in _grid(block, "**{}**")]
        head, *body = ["| " + " | ".join(line) + " |" for line in lines]
        tables.append("\n".join([head, "|" + "---|" * len(lines[0]), *body]) + "\n")
    return "\n".join(tables)


def latex(blocks: Sequence[Block]) -> str:
    """The study as LaTeX tables for the package booktabs; the best are bold."""
    tables = []
    for block in blocks:
        # Set in bold after the rest was escaped.
        lines = [[_escape(cell) for cell in line] for line in _grid(block, "\0{}\1")]
        head, *body = [" & ".join(line).replace("\0", r"\textbf{").replace("\1", "}") + r" \\" for line in lines]
        opening = r"\begin{tabular}{l" + "c" * (len(lines[0]) - 1) + "}"
        tables.append("\n".join([opening, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(tables) + "\n"


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
