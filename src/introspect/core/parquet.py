"""Frozen dataclasses as Parquet: columns and types come from the fields, and reading checks each of them.

A field of type `str`, `int`, `bool` or a `Literal` is a column of that type, `tuple[str, ...]` a list of
strings. A dataclass, or a tuple of them, is text that holds a JSON object, or a list of objects. A field that may be
None may be empty, and a field with a default may be missing from a file.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from introspect.core.errors import InputError, first_line
from introspect.core.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

# Rows in memory at a time while a file is written.
_ROWS = 1000


def write_rows(path: str | Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows one batch after another; a crash never leaves half a file.

    Args:
        path: the file; its folder is made if it is absent.
        schema: names and types of the columns.
        rows: a value for each column.

    Returns:
        How many rows there were.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    count, remaining = 0, iter(rows)
    with replacing(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        while batch := list(islice(remaining, _ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def write_columns(path: str | Path, /, **columns: Any) -> None:
    """Write columns, each a list or an array or tensor of one dimension, with the types that their values have."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {name: c if isinstance(c, list | tuple) else np.asarray(c) for name, c in columns.items()}
    with replacing(path) as partial:
        pq.write_table(pa.table(arrays), partial)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a file.

    Attributes:
        name: its name in the file.
        attribute: of the dataclass.
        hint: type of the attribute, without None.
        nullable: whether cells may be empty.
        required: whether a file must have it.
    """

    name: str
    attribute: str
    hint: Any
    nullable: bool = False
    required: bool = True

    @property
    def is_json(self) -> bool:
        """Whether cells hold JSON."""
        return is_dataclass(_item(self.hint))

    @property
    def is_list(self) -> bool:
        """Whether cells hold lists of strings."""
        return get_origin(self.hint) is tuple and not self.is_json

    def arrow(self) -> pa.Field:
        """Name and type in a file."""
        import pyarrow as pa

        scalars = {int: pa.int64(), bool: pa.bool_()}
        texts = pa.list_(pa.field("element", pa.string(), nullable=False))
        kind = texts if self.is_list else scalars.get(self.hint, pa.string())
        return pa.field(self.name, kind, nullable=self.nullable)

    def encode(self, value: Any) -> Any:
        """The value of a cell."""
        if not self.is_json or value is None:
            return value
        plain = [*map(asdict, value)] if isinstance(value, tuple) else asdict(value)
        return json.dumps(plain, ensure_ascii=False)

    def decode(self, cell: Any) -> Any:
        """The value of the attribute.

        Raises:
            ValueError: saying what is wrong with the cell.
        """
        if cell is None:
            return None
        if self.is_json:
            return self._parsed(cell)
        if self.is_list:
            if None in cell:
                raise ValueError("has an empty element, expected strings")
            return tuple(cell)
        if get_origin(self.hint) is Literal and cell not in get_args(self.hint):
            raise ValueError(f"is {cell!r}, expected one of {', '.join(get_args(self.hint))}")
        return cell

    def _parsed(self, cell: str) -> Any:
        kind, is_many = _item(self.hint), get_origin(self.hint) is tuple
        try:
            found = json.loads(cell)
        except ValueError:
            found = None
        items = found if is_many else [found]
        if not isinstance(items, list) or not all(_fits(kind, item) for item in items):
            names = ", ".join(f'"{each.name}"' for each in fields(kind))
            raise ValueError(f"is no JSON {'list' if is_many else 'object'} of {{{names}}}")
        made = tuple(kind(**item) for item in items)
        return made if is_many else made[0]

    @property
    def expected(self) -> str:
        """What cells must hold, in words."""
        return (
            "lists of strings" if self.is_list else {int: "integers", bool: "true or false"}.get(self.hint, "strings")
        )

    def accepts(self, kind: pa.DataType) -> bool:
        """Whether a column of this type holds what is expected, in any width."""
        from pyarrow import types as kinds

        if self.is_list:
            # A writer that saw only empty lists cannot know what they would have held.
            is_list = kinds.is_list(kind) or kinds.is_large_list(kind)
            return is_list and (kinds.is_null(kind.value_type) or _is_text(kind.value_type))
        if self.nullable and kinds.is_null(kind):
            return True
        return bool({int: kinds.is_integer, bool: kinds.is_boolean}.get(self.hint, _is_text)(kind))


@dataclass(frozen=True)
class Table(Generic[T]):
    """How the instances of a frozen dataclass are kept in a Parquet file, a row each.

    Attributes:
        kind: the dataclass.
        noun: what its instances are called in errors, in the plural.
        key: attributes that tell two rows apart; none where rows may repeat.
        names: attribute to column, where the two differ.
        derived: property to the attribute behind which its column is written; it is never read back.
        check: says what is wrong with an instance, beyond its types; None if nothing is.
    """

    kind: type[T]
    noun: str
    key: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    derived: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[T], str | None] = lambda _: None

    @cached_property
    def stored(self) -> tuple[Column, ...]:
        """The columns that are read: one per field."""
        hints = get_type_hints(self.kind)
        return tuple(
            _column(each.name, self.names.get(each.name, each.name), hints[each.name], each.default is MISSING)
            for each in fields(self.kind)  # type: ignore[arg-type]
        )

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """All columns of a file that is written."""
        found: list[Column] = []
        for column in self.stored:
            found.append(column)
            for name in (name for name, before in self.derived.items() if before == column.attribute):
                found.append(_column(name, name, get_type_hints(getattr(self.kind, name).fget)["return"], False))
        return tuple(found)

    def write(self, path: str | Path, items: Iterable[T], metadata: Mapping[bytes, str] | None = None) -> int:
        """Write instances in the given order, in constant memory; a crash never leaves half a file.

        Args:
            path: the file; its folder is made if it is absent.
            items: what is written.
            metadata: further words for the head of the file.

        Returns:
            How many there were.

        Raises:
            InputError: an instance is there twice.
        """
        import pyarrow as pa

        schema = pa.schema([column.arrow() for column in self.columns], metadata=metadata and dict(metadata))
        return write_rows(path, schema, map(self.row, self._distinct(items, path)))

    def row(self, item: T) -> dict[str, Any]:
        """The cells of an instance, by column."""
        return {column.name: column.encode(getattr(item, column.attribute)) for column in self.columns}

    def read(self, path: str | Path, limit: int | None = None) -> list[T]:
        """Read instances in the file's order; columns beyond theirs are left alone.

        Files that other libraries wrote are read too: any width of strings and integers will do.

        Args:
            path: the file.
            limit: rows to read from its beginning; None reads all.

        Raises:
            InputError: the file is missing or no Parquet; a column is missing or of another type; or a row has an
                empty cell or a wrong value, or is there twice. The message names file, row and column.
        """
        path = Path(path)
        table = self._open(path, limit)
        columns = [column for column in self.stored if column.name in table.column_names]
        cells = [table.column(column.name).to_pylist() for column in columns]
        items = (self._item(columns, row, f"{path}: row {n}") for n, row in enumerate(zip(*cells, strict=True)))
        return list(self._distinct(items, path))

    def _open(self, path: Path, limit: int | None) -> pa.Table:
        """The first rows of a file, each column checked for its type and for empty cells."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not path.is_file():
            raise InputError(f"{path}: no such file of {self.noun}")
        try:
            with pq.ParquetFile(path) as file:
                table = file.read() if limit is None else _first_rows(file, limit)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: not a readable Parquet file of {self.noun} ({first_line(error)})") from error
        for column in self.stored:
            if column.name in table.column_names:
                _check_cells(column, table.column(column.name), path)
            elif column.required:
                names = ", ".join(each.name for each in self.stored)
                raise InputError(f"{path}: column {column.name!r} is missing; {self.noun} have {names}")
        return table

    def _item(self, columns: Sequence[Column], cells: Sequence[Any], where: str) -> T:
        values = {}
        for column, cell in zip(columns, cells, strict=True):
            try:
                values[column.attribute] = column.decode(cell)
            except ValueError as error:
                raise InputError(f"{where}: column {column.name!r} {error}") from None
        item = self.kind(**values)
        if complaint := self.check(item):
            raise InputError(f"{where}: {complaint}")
        return item

    def _distinct(self, items: Iterable[T], path: str | Path) -> Iterator[T]:
        seen = set()
        for row, item in enumerate(items):
            values = tuple(getattr(item, name) for name in self.key)
            if self.key and values in seen:
                named = ", ".join(f"{name} {value!r}" for name, value in zip(self.key, values, strict=True))
                raise InputError(f"{path}: row {row}: {named} is there twice")
            seen.add(values)
            yield item


def _column(attribute: str, name: str, hint: Any, required: bool) -> Column:
    nullable = get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)
    if nullable:
        (hint,) = (each for each in get_args(hint) if each is not type(None))
    return Column(name, attribute, hint, nullable, required)


def _check_cells(column: Column, cells: pa.ChunkedArray, path: Path) -> None:
    if cells.null_count and not column.nullable:
        row = cells.is_null().to_pylist().index(True)
        raise InputError(f"{path}: row {row}: column {column.name!r} is empty, expected {column.expected}")
    if not column.accepts(cells.type):
        raise InputError(f"{path}: column {column.name!r} holds {cells.type}, expected {column.expected}")


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types as kinds

    return kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)


def _item(hint: Any) -> Any:
    """What a tuple is made of; of anything else, itself."""
    return get_args(hint)[0] if get_origin(hint) is tuple else hint


def _fits(kind: type, value: Any) -> bool:
    """Whether a JSON value has the fields of a dataclass, each with a value of its type."""
    if not isinstance(value, dict):
        return False
    hints = {each.name: get_type_hints(kind)[each.name] for each in fields(kind)}
    return value.keys() == hints.keys() and all(
        value[name] in get_args(hint) if get_origin(hint) is Literal else type(value[name]) is hint
        for name, hint in hints.items()
    )


def _first_rows(file: Any, limit: int) -> pa.Table:
    import pyarrow as pa

    batch = next(file.iter_batches(batch_size=limit), None)
    return file.schema_arrow.empty_table() if batch is None else pa.Table.from_batches([batch])
