"""What a student is tuned on: a reasoning trace and its answer, where they came from, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from introspect.chat.protocol import Message, Role
from introspect.core.errors import InputError, first_line
from introspect.core.files import replacing

# What the traces of a recipe are: rewritten drafts, written from scratch, or answers as they were given.
Kind = Literal["rewrite", "synthesis", "rollout"]


@dataclass(frozen=True, slots=True)
class Draft:
    """The answer that a trace was rewritten from: think block, what follows it, and whether it ended by itself."""

    reasoning: str
    content: str
    finished: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """One supervised conversation: `messages` as the student will be asked, `target` as it shall answer.

    (`example_id`, `rollout_id`, `trace_id`) is unique in a trace set; `rollout_id` numbers the drafts of an example and
    `trace_id` the rewrites of a draft, both from 0. `target` is a whole assistant turn, think block and answer. `draft`
    is None for what was not rewritten.
    """

    example_id: str
    rollout_id: int
    trace_id: int
    recipe: str
    messages: tuple[Message, ...]
    target: str
    draft: Draft | None = None


@dataclass(frozen=True, slots=True)
class TraceSet:
    """Accepted traces, and how many candidates were rejected for which reason."""

    traces: Sequence[Trace]
    rejections: Mapping[str, int]


_NUMBERS = ("rollout_id", "trace_id")
_COLUMNS = ("example_id", *_NUMBERS, "recipe", "messages", "target")
_DRAFT = "draft"


def save_traces(traces: Iterable[Trace], path: str | Path) -> None:
    """Write traces as Parquet, in the given order; a crash never leaves half a file.

    One row per trace and one column per field; `messages` is a JSON list of `{"role", "content"}`, `draft` a JSON
    object or null.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    rows = [_row(trace) for trace in traces]
    kinds = {column: pa.int64() if column in _NUMBERS else pa.string() for column in _COLUMNS}
    fields = [pa.field(column, kind, nullable=False) for column, kind in kinds.items()]
    schema = pa.schema([*fields, pa.field(_DRAFT, pa.string())])
    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial, compression="zstd")


def load_traces(path: str | Path) -> tuple[Trace, ...]:
    """Read the traces of a Parquet file, in the file's order; columns beyond those of a trace are left alone.

    Raises:
        InputError: the file is missing or no Parquet; a column is missing; a cell is empty or of another type; the
            messages are no conversation; or a trace is there twice. The message names file, row and column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file of traces")
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file of traces ({first_line(error)})") from error
    if missing := [column for column in _COLUMNS if column not in table.column_names]:
        raise InputError(f"{path}: column {missing[0]!r} is missing; traces have {', '.join(_COLUMNS)}")
    known = [*_COLUMNS, *({_DRAFT} & {*table.column_names})]
    rows = table.select(known).to_pylist()
    traces = tuple(_trace(row, f"{path}: row {number}") for number, row in enumerate(rows))
    seen: set[tuple[str, int, int]] = set()
    for number, trace in enumerate(traces):
        if (key := (trace.example_id, trace.rollout_id, trace.trace_id)) in seen:
            raise InputError(f"{path}: row {number}: trace {key} is there twice")
        seen.add(key)
    return traces


def _row(trace: Trace) -> dict[str, Any]:
    messages = [{"role": message.role, "content": message.content} for message in trace.messages]
    values = {column: getattr(trace, column) for column in _COLUMNS}
    draft = json.dumps(asdict(trace.draft), ensure_ascii=False) if trace.draft else None
    return {**values, "messages": json.dumps(messages, ensure_ascii=False), _DRAFT: draft}


def _trace(row: Mapping[str, Any], where: str) -> Trace:
    for column in _COLUMNS:
        expected = int if column in _NUMBERS else str
        if not isinstance(row[column], expected) or row[column] == "":
            kind = "an integer" if expected is int else "a text"
            raise InputError(f"{where}: column {column!r} is {row[column]!r}, expected {kind}")
    draft = row.get(_DRAFT)
    return Trace(
        **{
            **row,
            "messages": _messages(row["messages"], where),
            _DRAFT: None if draft is None else _draft(draft, where),
        }
    )


def _draft(text: str, where: str) -> Draft:
    kinds = {"reasoning": str, "content": str, "finished": bool}
    try:
        values = json.loads(text)
    except (TypeError, ValueError):
        values = None
    if not isinstance(values, dict) or {name: type(value) for name, value in values.items()} != kinds:
        raise InputError(f'{where}: column {_DRAFT!r} is no JSON object of {{"reasoning", "content", "finished"}}')
    return Draft(**values)


def _messages(text: str, where: str) -> tuple[Message, ...]:
    try:
        messages = tuple(Message(**message) for message in json.loads(text))
    except (TypeError, ValueError):
        messages = ()
    sound = all(message.role in get_args(Role) and isinstance(message.content, str) for message in messages)
    if not messages or not sound:
        raise InputError(f'{where}: column \'messages\' is no JSON list of {{"role", "content"}}')
    return messages
