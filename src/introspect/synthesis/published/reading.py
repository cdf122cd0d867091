"""Rows of a published training set: of a file, a folder, or a data set on the Hugging Face hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from introspect.benchmarks.rows import Row, read_rows
from introspect.chat.protocol import Message, Role
from introspect.core.errors import InputError, first_line

# Rows that are read at a time: prompts hold whole contexts.
_BATCH = 256
# Of the metadata only the benchmark's own id is wanted; the rest can be as long as the prompt.
_METADATA = "metadata"
_IDS = ("id", "_id")


class PublishedSet:
    """A table of training examples, opened; its rows are read as they are needed.

    Args:
        source: a Parquet or JSON Lines file; a folder that `datasets` saved or that holds a data set as on the hub; or
            a hub id.
        config: configuration of the data set, such as `hotpotqa`; of files there is none.
        split: part of the data set.
        revision: branch, tag or commit on the hub; None takes the newest.

    Raises:
        InputError: there is no such source, or it cannot be read.
    """

    def __init__(
        self, source: str | Path, *, config: str | None = None, split: str = "train", revision: str | None = None
    ) -> None:
        path = Path(source).expanduser()
        self.source = str(source)
        self._table: Any = None
        self._path: Path | None = None
        if path.is_file():
            self._path = path
            self.columns = _columns_of(path)
            return
        if not path.is_dir() and (path.is_absolute() or self.source.startswith((".", "~")) or len(path.parts) > 2):
            raise InputError(f"{source}: no such file or folder")
        self._table = _load(path, self.source, config, split, revision)
        self.columns = tuple(self._table.column_names)

    def rows(self, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
        """The rows with these columns, and those of the optional ones that there are.

        Raises:
            InputError: a required column is missing, or the file breaks off.
        """
        self.check(required)
        wanted = [column for column in self.columns if column in {*required, *optional}]
        for number, values in enumerate(self._values(wanted), start=1):
            yield Row(values, self.source, number, Counter())

    def check(self, required: Sequence[str], remedy: str = "") -> None:
        """Raise an InputError that names the first of the columns that is missing."""
        if missing := [column for column in required if column not in self.columns]:
            raise InputError(
                f"{self.source}: column {missing[0]!r} is missing; there are {', '.join(self.columns)}{remedy}"
            )

    def _values(self, wanted: list[str]) -> Iterator[Mapping[str, Any]]:
        if self._path is None:
            yield from self._table.select_columns(wanted)
        elif _is_parquet(self._path):
            yield from _read_parquet(self._path, wanted)
        else:
            yield from (row.values for row in read_rows(self._path, Counter()))


def example_id_of(row: Row) -> str:
    """The id of the question that a row is about: the benchmark's own, where the metadata tell it, else `sample_id`."""
    metadata = row.values.get(_METADATA)
    if isinstance(metadata, Mapping):
        for name in _IDS:
            if isinstance(metadata.get(name), str) and metadata[name]:
                return str(metadata[name])
    number = row.value("sample_id")
    if isinstance(number, str) and number:
        return number
    return str(row.cell(number, int, "sample_id"))


def messages_of(row: Row, column: str) -> tuple[Message, ...]:
    """A prompt: a list of turns `{"role", "content"}`, the last of them the user's; a bare text is one such turn.

    Raises:
        InputError: it is none, naming the turn.
    """
    value = row.value(column)
    if isinstance(value, str):
        return (Message("user", row.text(column)),)
    messages = []
    for number, turn in enumerate(row.cell(value, list, column)):
        place = f"{column}[{number}]"
        if not isinstance(turn, Mapping) or turn.get("role") not in get_args(Role):
            raise row.error(place, f"expected a turn with the role {', '.join(get_args(Role))}, and its content")
        messages.append(Message(turn["role"], row.cell(turn.get("content"), str, f"{place}.content")))
    if not messages or messages[-1].role != "user":
        raise row.error(column, "expected a conversation that ends with the user's turn")
    return tuple(messages)


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _columns_of(path: Path) -> tuple[str, ...]:
    """Those of a Parquet file, or of the first row of JSON Lines."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not _is_parquet(path):
        return tuple(next(iter(read_rows(path, Counter()))).values)
    try:
        return tuple(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _read_parquet(path: Path, wanted: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH, columns=_leaves(file.schema_arrow, wanted)):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _leaves(schema: Any, wanted: Sequence[str]) -> list[str]:
    """Columns to read: of nested metadata the id alone."""
    import pyarrow as pa

    kind = schema.field(_METADATA).type if _METADATA in wanted else None
    if kind is None or not pa.types.is_struct(kind):
        return list(wanted)
    ids = [f"{_METADATA}.{name}" for name in _IDS if kind.get_field_index(name) >= 0]
    return [column for column in wanted if column != _METADATA] + ids


def _load(path: Path, source: str, config: str | None, split: str, revision: str | None) -> Any:
    """A data set of the `datasets` library: from a folder that it saved, else as it loads one from the hub."""
    import datasets

    saved = path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        if not saved:
            return datasets.load_dataset(source, config, split=split, revision=revision)
        loaded = datasets.load_from_disk(str(path))
        return loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
    # The loader raises a different type for every layer that can fail (HTTP, hub, format, config, split).
    except Exception as error:
        wanted = f"{split!r} of {source!r}" + (f" (config {config!r})" if config else "")
        raise InputError(f"cannot load {wanted}: {first_line(error)}; or give a local file or folder") from error


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a readable Parquet file ({first_line(error)})")
