"""The curves of a run, from Lightning's CSV files, thinned out so that any training fits on a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from introspect.core.errors import InputError, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pandas import Series

POINTS = 120  # a thinned curve has between this and twice as many
_AXES = ("step", "epoch")
# Metrics with one value each, which metrics.json has as well.
_LEFT_OUT = ("test/", "dissect/control/")


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve of bounded size.

    Attributes:
        steps: optimizer step of each point.
        values: value of the metric at each point.
        values_per_point: logged values that a point is the mean of; the last point may have fewer.
    """

    steps: tuple[float, ...]
    values: tuple[float, ...]
    values_per_point: int = 1


def thin(steps: NDArray[np.float64], values: NDArray[np.float64], points: int = POINTS) -> Curve:
    """Average neighbors until fewer than twice `points` full groups are left; the group size is a power of two."""
    import numpy as np

    width = 1
    while len(steps) // width >= 2 * points:
        width *= 2
    starts = np.arange(0, len(steps), width)
    sizes = np.diff([*starts, len(steps)])
    means = [np.add.reduceat(each, starts) / sizes for each in (steps, values)]
    return Curve(tuple(means[0].tolist()), tuple(means[1].tolist()), width)


def read_curves(folder: Path, points: int = POINTS) -> dict[str, Curve]:
    """Return every curve under `csv/` in a run's folder, by metric; the versions of a resumed run form one curve.

    Raises:
        InputError: a file is not a table of numbers; it names the file and the row.
    """
    import numpy as np

    parts: dict[str, list[tuple[Series, Series]]] = {}
    for path in sorted(folder.glob("csv/**/metrics.csv"), key=_version):
        for name, steps, values in _read(path):
            parts.setdefault(name, []).append((steps, values))
    whole = {name: [np.concatenate(columns) for columns in zip(*each, strict=True)] for name, each in parts.items()}
    return {name: thin(steps, values, points) for name, (steps, values) in whole.items()}


def _version(path: Path) -> tuple[int, str]:
    number = re.search(r"(\d+)$", path.parent.name)
    return (int(number[1]) if number else 0, str(path))


def _read(path: Path) -> Iterator[tuple[str, Series, Series]]:
    """Yield name, steps and values of each metric of a file, without the values that are not finite."""
    import numpy as np
    import pandas as pd
    from pyarrow import ArrowException, csv

    if path.stat().st_size == 0:
        return
    try:
        table = csv.read_csv(path, read_options=csv.ReadOptions(use_threads=False)).to_pandas()  # errors name the row
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {one_line(error, 300)}") from error
    if "step" not in table:
        raise InputError(f"{path}: has no column 'step'")
    numbers = table.apply(pd.to_numeric, errors="coerce")
    for name in table:
        if name in _AXES or name.startswith(_LEFT_OUT):
            continue
        filled = table[name].notna() & (table[name] != "")
        for key in ("step", name):
            if (wrong := filled & numbers[key].isna()).any():
                row = wrong.idxmax()
                cell = "" if pd.isna(table[key][row]) else str(table[key][row])[:40]
                raise InputError(f"{path}: row {row + 2}: {key} is {cell!r}, expected a number")
        kept = filled & np.isfinite(numbers[name])
        if kept.any():
            yield name, numbers["step"][kept], numbers[name][kept]
