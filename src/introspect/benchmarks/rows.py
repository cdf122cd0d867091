"""Raw benchmark items: read lazily from a JSON or JSONL file, and checked field by field.

Every error is one line, `file, row 12, field 'context[3].title': expected text, got null`, rows counted from 1.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from introspect.core.errors import InputError

T = TypeVar("T")

_KINDS: dict[type, str] = {str: "text", int: "a whole number", bool: "true or false", list: "a list"}
_BLANK = re.compile(r"\s*")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One raw item.

    Attributes:
        values: the item's fields.
        source: file or hub id that it comes from.
        number: its place in the source, from 1; in a JSONL file the line.
        notes: counts, for the whole source, the irregularities of published data that were tolerated.
    """

    values: Mapping[str, Any]
    source: str
    number: int
    notes: Counter[str]

    def error(self, field: str, problem: str) -> InputError:
        """Make the error about one field of this row, for the caller to raise."""
        return InputError(f"{self.source}, row {self.number}, field {field!r}: {problem}")

    def note(self, irregularity: str) -> None:
        """Count an irregularity that does not make the item invalid."""
        self.notes[irregularity] += 1

    def cell(self, value: object, kind: type[T], field: str) -> T:
        """Check that `value` is of `kind`, and text valid Unicode; raise InputError if not."""
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(field, f"expected {_KINDS[kind]}, got {_show(value)}")
        if isinstance(value, str) and not value.isascii() and re.search("[\ud800-\udfff]", value):
            raise self.error(field, "is not valid Unicode: it holds half of a surrogate pair")
        return value

    def value(self, *names: str) -> Any:
        """Get the value of the first of `names` that the row has; raise InputError if it has none of them."""
        for name in names:
            if name in self.values:
                return self.values[name]
        raise self.error(names[0], "is missing" + "".join(f" (so is {name!r})" for name in names[1:]))

    def text(self, *names: str) -> str:
        """Get the text under the first of `names` that the row has; raise InputError if it is blank."""
        field = next((name for name in names if name in self.values), names[0])
        value = self.cell(self.value(*names), str, field)
        if not value.strip():
            raise self.error(field, "is empty")
        return value

    def texts(self, value: object, field: str) -> tuple[str, ...]:
        """Check that `value` is a list of texts, each of which may be blank."""
        items = self.cell(value, list, field)
        return tuple(self.cell(item, str, f"{field}[{i}]") for i, item in enumerate(items))

    def table(self, name: str, *columns: str) -> list[tuple[Any, ...]]:
        """Read a list of records, in any of the three layouts in which it is published.

        `[[title, sentences], …]` (original files), `{"title": […], "sentences": […]}` (hub) and
        `[{"title": …, "sentences": …}, …]` (mirrors). A column may have several names: `"sentences|content"`.

        Returns:
            One tuple per record, its cells in the order of `columns`, their types not checked.
        """
        value = self.value(name)
        if isinstance(value, Mapping):
            lists = [self.cell(self._column(value, c, name), list, f"{name}.{_first(c)}") for c in columns]
            if len({len(items) for items in lists}) > 1:
                lengths = ", ".join(f"{len(items)} of {_first(c)!r}" for items, c in zip(lists, columns, strict=True))
                raise self.error(name, f"its columns differ in length: {lengths}")
            return list(zip(*lists, strict=True))
        return [self._record(item, columns, f"{name}[{i}]") for i, item in enumerate(self.cell(value, list, name))]

    def _record(self, item: object, columns: tuple[str, ...], field: str) -> tuple[Any, ...]:
        if isinstance(item, Mapping):
            return tuple(self._column(item, column, field) for column in columns)
        if isinstance(item, list) and len(item) == len(columns):
            return tuple(item)
        raise self.error(field, f"expected [{', '.join(map(_first, columns))}], got {_show(item)}")

    def _column(self, values: Mapping[str, Any], column: str, field: str) -> Any:
        for name in column.split("|"):
            if name in values:
                return values[name]
        raise self.error(f"{field}.{_first(column)}", "is missing")


def _first(column: str) -> str:
    return column.split("|")[0]


def _show(value: object) -> str:
    if value is None:
        return "null"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def read_rows(path: str | Path, notes: Counter[str]) -> Iterator[Row]:
    """Read the items of a file that holds a JSON array of objects or one JSON object per line (told by its content).

    Reading is lazy, so the first items of a large file come at once.

    Raises:
        InputError: if the file is missing, unreadable, empty, not JSON or holds something else than objects.
    """
    path = Path(path).expanduser()
    if path.is_dir() or not path.exists():
        raise InputError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    empty = True
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, item in _read_items(file, path):
                if not isinstance(item, dict):
                    raise InputError(f"{path}, row {number}: expected a JSON object, got {_show(item)}")
                empty = False
                yield Row(item, str(path), number, notes)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if empty:
        raise InputError(f"{path}: holds no items")


def _read_items(file: TextIO, path: Path) -> Iterator[tuple[int, Any]]:
    """(row number, decoded value) for every item."""
    while (first := file.read(1)).isspace():
        pass
    if first == "[":
        yield from enumerate(_read_array(file, path), start=1)
        return
    file.seek(0)
    for number, line in enumerate(file, start=1):
        if not line.isspace():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _not_json(path, number, error) from error


def _read_array(file: TextIO, path: Path) -> Iterator[Any]:
    """The items of a JSON array whose opening bracket has been read, decoded one at a time."""
    decoder, text, at, number = json.JSONDecoder(), "", 0, 0
    while True:
        at = _BLANK.match(text, at).end()  # type: ignore[union-attr]  # matches everywhere
        if text[at : at + 1] == "]":
            rest = text[at + 1 :] + file.read()
            if rest.strip():
                raise InputError(f"{path}: something follows the JSON array: {_show(rest.strip())}")
            return
        # Between two items stands a comma; it is consumed together with the item that it announces.
        comma = text[at : at + 1] == ","
        start = _BLANK.match(text, at + comma).end()  # type: ignore[union-attr]
        try:
            if comma != (number > 0) and at < len(text):
                raise json.JSONDecodeError("a comma is missing or misplaced", text, at)
            item, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            # Either the item goes on beyond what was read, or it is broken. Reading ever more keeps this linear.
            more = file.read(max(_CHUNK, len(text)))
            if not more:
                raise _not_json(path, number + 1, error) from error
            text, at = text[at:] + more, 0
            continue
        at, number = end, number + 1
        yield item


def _not_json(path: Path, number: int, error: Exception) -> InputError:
    reason = getattr(error, "msg", None) or str(error)
    return InputError(
        f"{path}, row {number}: is not JSON ({reason}); expected an array of objects or one object per line"
    )
