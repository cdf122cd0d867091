"""A dissection as files: Parquet for programs, and the table that readers of the published code know.

dissection.json        what was dissected, how, and how many detectors there are
labels.parquet         number, name, category, pixels
units.parquet          a row per unit: threshold, area, area per category, best label, category, iou
intersections.parquet  unit, label, pixels, iou: the pairs that overlap at all
tally.csv              a row per unit, best first: its best label of each category with the pixels behind it
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from introspect.core.errors import InputError
from introspect.core.files import write_csv, write_json
from introspect.core.parquet import write_columns
from introspect.dissection.concepts.base import Label
from introspect.dissection.result import Dissection
from introspect.dissection.tally import Counts

_SETTINGS = (
    "network",
    "checkpoint",
    "layer",
    "concepts",
    "images",
    "preprocessing",
    "presence",
    "quantile",
    "iou_threshold",
    "control",
    "seed",
)


def save(dissection: Dissection, folder: str | Path) -> None:
    """Write the files; the folder is made if it is absent. Examples are not part of them."""
    folder = Path(folder)
    content = {
        **{name: getattr(dissection, name) for name in _SETTINGS},
        "categories": list(dissection.categories),
        "units": dissection.units,
        "detectors": dissection.summary(),
        "detectors_of_concept": dissection.unique(),
    }
    counts, best = dissection.counts, dissection.best
    names, categories = [label.name for label in dissection.labels], dissection.categories
    write_columns(
        folder / "labels.parquet",
        number=torch.arange(len(names)),
        name=names,
        category=[categories[index] for index in dissection.primary.tolist()],
        pixels=counts.label_pixels,
    )
    write_columns(
        folder / "units.parquet",
        unit=torch.arange(dissection.units),
        threshold=dissection.thresholds,
        area=counts.areas,
        **{f"area_{name}": counts.category_areas[:, index] for index, name in enumerate(categories)},
        label=[names[index] for index in best.label.tolist()],
        category=[categories[index] for index in best.category.tolist()],
        iou=best.iou,
    )
    unit, label = counts.intersections.nonzero().T
    write_columns(
        folder / "intersections.parquet",
        unit=unit,
        label=label,
        pixels=counts.intersections[unit, label],
        iou=dissection.iou[unit, label],
    )
    write_csv(folder / "tally.csv", tally_columns(dissection), tally_rows(dissection))
    write_json(folder / "dissection.json", content)  # last: a folder that has it is complete


def load(folder: str | Path) -> Dissection:
    """Read what `save` wrote.

    Raises:
        InputError: a file is missing or is not one of these.
    """
    folder = Path(folder)
    path = folder
    try:
        path = folder / "dissection.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        tables = {}
        for name in ("labels", "units", "intersections"):
            path = folder / f"{name}.parquet"
            tables[name] = pq.read_table(path)
        return _assemble(content, tables)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a saved dissection has it") from None
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise InputError(f"{path}: is not of a saved dissection: {error}") from error


def _assemble(content: dict[str, Any], tables: dict[str, pa.Table]) -> Dissection:
    labels, units, pairs = tables["labels"], tables["units"], tables["intersections"]
    categories = tuple(content["categories"])
    intersections = torch.zeros(len(units), len(labels), dtype=torch.int64)
    intersections[_tensor(pairs, "unit"), _tensor(pairs, "label")] = _tensor(pairs, "pixels")
    rows = zip(*(labels[name].to_pylist() for name in ("number", "name", "category")), strict=True)
    named = tuple(Label(*row) for row in rows)
    return Dissection(
        counts=Counts(
            intersections,
            _tensor(units, "area"),
            torch.stack([_tensor(units, f"area_{name}") for name in categories], dim=1),
            _tensor(labels, "pixels"),
        ),
        thresholds=_tensor(units, "threshold"),
        labels=named,
        categories=categories,
        primary=torch.tensor([categories.index(label.category) for label in named]),
        # Files of earlier versions do not say where the weights come from.
        **{name: content[name] for name in _SETTINGS if name in content},
    )


def tally_columns(dissection: Dissection) -> list[str]:
    """Return the header of tally.csv."""
    parts = ("label", "truth", "activation", "intersect", "iou")
    return ["unit", "category", "label", "score", *(f"{c}-{part}" for c in dissection.categories for part in parts)]


def tally_rows(dissection: Dissection) -> Iterator[list[str | int | float]]:
    """Yield the rows of tally.csv, best unit first. Units count from 1; pixels have a decimal point."""
    counts, best = dissection.counts, dissection.best
    index = torch.arange(dissection.units)
    details = [
        (
            best.labels[k],
            counts.label_pixels[best.labels[k]].double(),
            counts.category_areas[index, dissection.primary[best.labels[k]]].double(),
            counts.intersections[index, best.labels[k]].double(),
            best.ious[k],
        )
        for k in range(len(dissection.categories))
    ]
    for unit in best.iou.argsort(descending=True, stable=True).tolist():
        row: list[str | int | float] = [
            unit + 1,
            dissection.categories[int(best.category[unit])],
            dissection.labels[int(best.label[unit])].name,
            float(best.iou[unit]),
        ]
        for label, *numbers in details:
            row += [dissection.labels[int(label[unit])].name, *(float(column[unit]) for column in numbers)]
        yield row


def _tensor(table: pa.Table, name: str) -> Tensor:
    return torch.tensor(table[name].to_numpy())
