"""The dissections of a run: detectors by category, the distribution of IoU, and the path of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from introspect.core.errors import InputError, first_line

BINS = 100  # of IoU, from 0 to 1
_CONCEPTS = 12  # listed per layer


@dataclass(frozen=True, slots=True)
class Detectors:
    """Concept detectors of a layer or of a control: means over the dissections of the kind.

    Attributes:
        total: units that detect a concept.
        unique: concepts that they detect.
        by_category: detectors of each category of concepts.
        units: how many units have their best IoU in each of `BINS` bins.
    """

    total: float
    unique: float
    by_category: Mapping[str, float]
    units: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """A dissected layer and its controls.

    Attributes:
        name: name of the layer.
        data: name of the concept set.
        units: number of units.
        threshold: IoU from which on a unit is a detector.
        found: detectors of the layer.
        controls: detectors of each control.
        concepts: number of detectors of the most frequent concepts.
        report: the HTML report; None without one.
    """

    name: str
    data: str
    units: int
    threshold: float
    found: Detectors
    controls: Mapping[str, Detectors]
    concepts: Mapping[str, int]
    report: Path | None


def read_layers(folder: Path) -> list[Layer]:
    """Return the dissected layers in a run's folder, of `dissect.py` or of a training.

    Raises:
        InputError: a file is not of a saved dissection.
    """
    paths = [*folder.glob("dissection/*/dissection.json"), *folder.glob("*/dissection.json")]
    return [_layer(path.parent) for path in sorted(paths)]


def _layer(folder: Path) -> Layer:
    content, found = _read(folder)
    groups: dict[str, list[Detectors]] = {}
    for path in sorted(folder.glob("*/dissection.json")):
        control, each = _read(path.parent)
        groups.setdefault(str(control["control"]), []).append(each)
    report = folder / "report.html"
    return Layer(
        name=str(content["layer"]),
        data=str(content["concepts"]),
        units=int(content["units"]),
        threshold=float(content["iou_threshold"]),
        found=found,
        controls={name: _mean(group) for name, group in groups.items()},
        concepts={str(k): int(v) for k, v in list(content["detectors_of_concept"].items())[:_CONCEPTS]},
        report=report if report.is_file() else None,
    )


def _read(folder: Path) -> tuple[dict[str, Any], Detectors]:
    """Return the settings of a saved dissection and its detectors, without its pixels."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "dissection.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        counts = content["detectors"]
        for key in ("layer", "concepts", "units", "iou_threshold", "control", "detectors_of_concept"):
            content[key]
        by_category = {str(name): float(counts[name]) for name in content["categories"]}
        path = folder / "units.parquet"
        bins, _ = np.histogram(pq.read_table(path, columns=["iou"])["iou"], bins=BINS, range=(0.0, 1.0))
        found = Detectors(float(counts["total"]), float(counts["unique"]), by_category, tuple(map(float, bins)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{path}: is not of a saved dissection: {what}") from error
    return content, found


def _mean(group: Sequence[Detectors]) -> Detectors:
    return Detectors(
        total=fmean(each.total for each in group),
        unique=fmean(each.unique for each in group),
        by_category={name: fmean(each.by_category.get(name, 0.0) for each in group) for name in group[0].by_category},
        units=tuple(map(fmean, zip(*(each.units for each in group), strict=True))),
    )
