"""Broden, the broadly and densely labelled data set of network dissection, as it lies on disk.

    index.csv         image,split,ih,iw,sh,sw,<a column per category>
    category.csv      name,first,last,count,frequency
    label.csv         number,name,category,frequency,coverage,syns
    c_<category>.csv  code,number,name,frequency,coverage
    images/           what index.csv names: images, and masks whose label is red + 256 x green

A cell of index.csv is empty or a list with `;`: a number labels the whole image, a file labels its pixels.
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from introspect.core.errors import InputError
from introspect.dissection.concepts.base import Annotated, Label, primary_categories
from introspect.dissection.options import as_names, whole_number

log = logging.getLogger(__name__)

T = TypeVar("T", int, float)

_PIXEL_LABELS = 2**16  # numbers that red and green can hold


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row of index.csv. `layers` holds a file, or a label that fills a layer, per pixel layer."""

    image: str
    row: int
    mask_size: tuple[int, int]
    layers: tuple[str | int, ...]
    scalars: tuple[int, ...]


class Broden:
    """A folder in Broden's layout.

    Every image that has a label of the chosen categories is used. Where a cell mixes whole-image labels and masks, the
    former count as masks of one label.

    Args:
        root: the folder that holds index.csv.
        categories: the one or those to dissect with; None takes all. Their order is that of category.csv.
        split: only images of this split, e.g. `train`; None takes all.
        limit: only that many images, the first ones; None takes all.

    Raises:
        InputError: a file is missing or inconsistent, a category is not in the data, no image is left, or `limit` is
            not positive.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        categories: str | Sequence[str] | None = None,
        split: str | None = None,
        limit: int | None = None,
    ) -> None:
        self.root = Path(root)
        self.name = "broden"
        if not self.root.is_dir():
            raise InputError(f"concepts.root={self.root}: no such folder; it should hold Broden's index.csv")
        self.categories = self._categories(categories)
        names = self._names()
        count = max(names, default=0) + 1
        # By the number that a pixel may hold; 0 is "no label".
        self._known = np.isin(np.arange(max(count, _PIXEL_LABELS)), [0, *names])
        self.primary = primary_categories(count, self.categories, {c: self._coverage(c) for c in self.categories})
        self.labels: tuple[Label, ...] = tuple(
            Label(number, names.get(number, ""), self.categories[category])
            for number, category in enumerate(self.primary.tolist())
        )
        self._entries = self._index(split, None if limit is None else whole_number("concepts.limit", limit, 1))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Annotated:
        """Read one image, its pixel layers in the order of the categories, and its whole-image labels.

        Raises:
            InputError: a file is missing or not an image, a mask has another size or a label that label.csv lacks.
        """
        entry = self._entries[index]
        layers = [self._layer(entry, layer) for layer in entry.layers]
        pixels = np.stack(layers) if layers else np.empty((0, *entry.mask_size), np.int32)
        image = np.ascontiguousarray(self._read(entry, entry.image).transpose(2, 0, 1))
        return Annotated(torch.from_numpy(image), torch.from_numpy(pixels), entry.scalars, entry.image)

    def _categories(self, categories: str | Sequence[str] | None) -> tuple[str, ...]:
        present = [row.text("name") for row in _rows(self.root / "category.csv", "name")]
        if categories is None:
            return tuple(present)
        wanted = as_names(categories)
        if not wanted:
            raise InputError("concepts.categories: name at least one, or null for all")
        if absent := [category for category in wanted if category not in present]:
            raise InputError(
                f"{self.root / 'category.csv'} has no category {', '.join(absent)}: it has {', '.join(present)}"
            )
        return tuple(category for category in present if category in wanted)

    def _names(self) -> dict[int, str]:
        names: dict[int, str] = {}
        for row in _rows(self.root / "label.csv", "number", "name"):
            number = row.number("number", int)
            if number in names:
                raise row.error("number", f"label {number} is there already, as {names[number]!r}")
            names[number] = row.text("name")
        return names

    def _is_known(self, number: int) -> bool:
        return number < len(self._known) and bool(self._known[number])

    def _coverage(self, category: str) -> dict[int, float]:
        path = self.root / f"c_{category}.csv"
        coverage = {}
        for row in _rows(path, "number", "coverage"):
            number = row.number("number", int)
            if not self._is_known(number):
                raise row.error("number", f"label {number} is not in label.csv")
            coverage[number] = row.number("coverage", float)
        return coverage

    def _index(self, split: str | None, limit: int | None) -> list[_Entry]:
        path = self.root / "index.csv"
        entries: list[_Entry] = []
        splits, unlabelled = set(), 0
        for row in _rows(path, "image", "split", "sh", "sw", *self.categories):
            splits.add(row.text("split"))
            if split is not None and row.text("split") != split:
                continue
            if limit is not None and len(entries) >= limit:
                break
            entry = self._entry(row)
            if entry.layers or entry.scalars:
                entries.append(entry)
            else:
                unlabelled += 1
        if unlabelled:
            log.info("%s: %d images without a label of %s are left out", path, unlabelled, ", ".join(self.categories))
        if not entries:
            where = "" if split is None else f" in the split {split} (there is {', '.join(sorted(splits))})"
            raise InputError(f"{path}: no image has a label of {', '.join(self.categories)}{where}")
        return entries

    def _entry(self, row: _Row) -> _Entry:
        layers: list[str | int] = []
        scalars: list[int] = []
        for category in self.categories:
            cell = [part for part in row.values[category].split(";") if part]
            parts = [int(part) if part.isdecimal() else part for part in cell]
            for number in (part for part in parts if isinstance(part, int)):
                if not self._is_known(number):
                    raise row.error(category, f"label {number} is not in label.csv")
            if any(isinstance(part, str) for part in parts):
                layers.extend(parts)
            else:
                scalars.extend(part for part in parts if isinstance(part, int))
        size = row.number("sh", int), row.number("sw", int)
        if min(size) < 1:
            raise row.error("sh", f"a mask of {size[0]} x {size[1]} pixels")
        return _Entry(row.text("image"), row.line, size, tuple(layers), tuple(scalars))

    def _layer(self, entry: _Entry, layer: str | int) -> np.ndarray:
        if isinstance(layer, int):
            return np.full(entry.mask_size, layer, np.int32)
        raw = self._read(entry, layer)
        labels = raw[..., 0] + raw[..., 1] * np.int32(256)
        if labels.shape != entry.mask_size:
            (h, w), (sh, sw) = labels.shape, entry.mask_size
            raise InputError(f"{self._where(entry)}: {layer} is {h} x {w} pixels, sh and sw say {sh} x {sw}")
        if not self._known[labels].all():
            unknown = int(labels[~self._known[labels]].max())
            raise InputError(f"{self._where(entry)}: {layer} has the label {unknown}, which is not in label.csv")
        return labels

    def _read(self, entry: _Entry, name: str) -> np.ndarray:
        """Read a file under images/ as RGB, uint8 [height, width, 3]."""
        from PIL import Image

        path = self.root / "images" / name
        try:
            with Image.open(path) as file:
                return np.asarray(file if file.mode == "RGB" else file.convert("RGB"))
        except FileNotFoundError:
            raise InputError(f"{self._where(entry)}: there is no file {path}") from None
        except OSError as error:
            raise InputError(f"{self._where(entry)}: {path} cannot be read: {error}") from error

    def _where(self, entry: _Entry) -> str:
        return f"{self.root / 'index.csv'}, row {entry.row}"


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a CSV file; `line` counts from 1, the header included, as spreadsheets do."""

    values: Mapping[str, str]
    path: Path
    line: int

    def error(self, column: str, problem: str) -> InputError:
        return InputError(f"{self.path}, row {self.line}, column {column!r}: {problem}")

    def text(self, column: str) -> str:
        if not self.values[column]:
            raise self.error(column, "is empty")
        return self.values[column]

    def number(self, column: str, kind: type[T]) -> T:
        try:
            value = kind(self.text(column))
        except ValueError:
            raise self.error(column, f"expected a number, got {self.values[column]!r}") from None
        if not math.isfinite(value) or value < 0:
            raise self.error(column, f"expected a number from 0, got {self.values[column]!r}")
        return value


def _rows(path: Path, *columns: str) -> Iterator[_Row]:
    """Yield the rows of a CSV file, which must have the columns, each with as many cells as the header."""
    try:
        file = path.open(newline="", encoding="utf-8")
    except OSError:
        raise InputError(f"{path}: no such file; Broden's layout needs it") from None
    with file:
        reader = csv.DictReader(file, restval=None, restkey="")
        if absent := [column for column in columns if column not in (reader.fieldnames or ())]:
            raise InputError(f"{path}: has no column {', '.join(absent)}")
        for line, values in enumerate(reader, start=2):
            if "" in values or None in values.values():
                raise InputError(f"{path}, row {line}: expected {len(reader.fieldnames or ())} cells, as in the header")
            yield _Row(values, path, line)
