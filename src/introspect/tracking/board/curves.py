"""The curves of a run, from Lightning's CSV files, thinned out so that any training fits on a page."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from introspect.core.errors import InputError

POINTS = 120  # of a curve at most
_AXES = ("step", "epoch")
# One value each, which metrics.json has as well.
_LEFT_OUT = ("test/", "dissect/control/")


class Curve:
    """A curve of bounded size: while it is too long, neighbours are averaged.

    Args:
        points: kept at most.
    """

    def __init__(self, points: int = POINTS) -> None:
        self._limit = 2 * points
        self._width = 1  # values per kept point
        self._kept: list[tuple[float, float]] = []
        self._open: list[tuple[float, float]] = []

    def add(self, step: float, value: float) -> None:
        """The next value."""
        self._open.append((step, value))
        if len(self._open) == self._width:
            self._kept.append(_mean(self._open))
            self._open = []
        if len(self._kept) == self._limit:
            self._kept = [_mean(self._kept[i : i + 2]) for i in range(0, self._limit, 2)]
            self._width *= 2

    def points(self) -> list[tuple[float, float]]:
        """(step, value) of each, the last one perhaps of fewer values."""
        return [*self._kept, *([_mean(self._open)] if self._open else [])]

    @property
    def values_per_point(self) -> int:
        """1 if nothing was averaged."""
        return self._width


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    steps, values = zip(*points, strict=True)
    return sum(steps) / len(points), sum(values) / len(points)


def read_curves(folder: Path, points: int = POINTS) -> dict[str, Curve]:
    """Every curve under `csv/` in a run's folder, by metric; a run that went on in another version is one curve.

    Raises:
        InputError: a file is not a table of numbers; it names the file and the row.
    """
    curves: dict[str, Curve] = {}
    for path in sorted(folder.glob("csv/**/metrics.csv"), key=_version):
        for step, name, value in _values(path):
            if name not in curves:
                curves[name] = Curve(points)
            curves[name].add(step, value)
    return curves


def _version(path: Path) -> tuple[int, str]:
    number = re.search(r"(\d+)$", path.parent.name)
    return (int(number[1]) if number else 0, str(path))


def _values(path: Path) -> Iterator[tuple[float, str, float]]:
    """(step, metric, value) of every cell that holds a number; those that are none (nan, inf) are left out."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            names = next(rows, [])
            if names and "step" not in names:
                raise InputError(f"{path}: has no column 'step'")
            wanted = [n for n, name in enumerate(names) if name not in _AXES and not name.startswith(_LEFT_OUT)]
            for number, cells in enumerate(rows, start=1):
                yield from _of_row(names, wanted, cells, f"{path}: row {number}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: can not be read: {error}") from error


def _of_row(
    names: Sequence[str], wanted: Sequence[int], cells: Sequence[str], place: str
) -> Iterator[tuple[float, str, float]]:
    if len(cells) != len(names):
        raise InputError(f"{place} has {len(cells)} cells, expected {len(names)}")
    filled = [index for index in wanted if cells[index]]
    if not filled:
        return
    step = _number(cells[names.index("step")], "step", place)
    for index in filled:
        value = _number(cells[index], names[index], place)
        if math.isfinite(value):
            yield step, names[index], value


def _number(cell: str, name: str, place: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise InputError(f"{place}: {name} is {cell[:40]!r}, expected a number") from None
