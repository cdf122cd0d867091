"""What a student answered, one record per sampled response, and the Parquet file that keeps it.

The file is all that scoring needs: it can be scored again, read with any data-frame library, or compared with another
run, without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from introspect.benchmarks.examples import MultiHopExample, Tier
from introspect.chat.protocol import FINISHED, ChatRequest, ChatResponse, extract_answer
from introspect.core.errors import InputError, first_line
from introspect.core.files import replacing


@dataclass(frozen=True, slots=True)
class Rollout:
    """One response of a student to one question; (`example_id`, `rollout_id`) is unique in a run.

    `rollout_id` numbers the responses to the same question from 0; `reasoning` is the think block and `content` what
    follows it. Token counts are those of `chat.Usage`.
    """

    example_id: str
    rollout_id: int
    benchmark: str
    question: str
    answer: str
    aliases: tuple[str, ...]
    hops: int
    tier: str
    reasoning: str
    content: str
    finish_reason: str
    prompt_tokens: int
    reasoning_tokens: int
    completion_tokens: int

    @classmethod
    def of(cls, example: MultiHopExample, request: ChatRequest, response: ChatResponse) -> Rollout:
        """Join an example with the request made about it and the response to that request.

        Raises:
            ValueError: the response belongs to another request, or the request to another example.
        """
        if response.request_id != request.id:
            raise ValueError(f"response to request {response.request_id!r} joined with request {request.id!r}")
        if request.example is not None and request.example.id != example.id:
            raise ValueError(f"request about example {request.example.id!r} joined with example {example.id!r}")
        return cls(
            example_id=example.id,
            rollout_id=request.sample,
            benchmark=example.benchmark,
            question=example.question,
            answer=example.answer,
            aliases=example.aliases,
            hops=example.hops,
            tier=example.tier,
            reasoning=response.reasoning,
            content=response.content,
            finish_reason=response.finish_reason,
            prompt_tokens=response.usage.prompt_tokens,
            reasoning_tokens=response.usage.reasoning_tokens,
            completion_tokens=response.usage.completion_tokens,
        )

    @property
    def predicted_answer(self) -> str:
        """The answer between the tags of the content, "" where there is none; the think block is never searched."""
        return extract_answer(self.content)

    @property
    def finished(self) -> bool:
        """Whether the turn ended by itself; a rollout that did not is a degeneration."""
        return self.finish_reason in FINISHED

    @property
    def references(self) -> tuple[str, ...]:
        """Every accepted answer, the primary one first."""
        return (self.answer, *self.aliases)


# Column of the file -> field of the rollout. `predicted_answer` is derived: written for readers, never read back.
_COLUMNS: Mapping[str, str] = {
    "example_id": "example_id",
    "rollout_id": "rollout_id",
    "benchmark": "benchmark",
    "question": "question",
    "answer": "answer",
    "answer_aliases": "aliases",
    "hops": "hops",
    "tier": "tier",
    "reasoning_trace": "reasoning",
    "content": "content",
    "predicted_answer": "predicted_answer",
    "finish_reason": "finish_reason",
    "prompt_tokens": "prompt_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "completion_tokens": "completion_tokens",
}
_STORED = tuple(column for column in _COLUMNS if column != "predicted_answer")
_INTEGERS = ("rollout_id", "hops", "prompt_tokens", "reasoning_tokens", "completion_tokens")


def _schema() -> Any:
    import pyarrow as pa

    def kind(column: str) -> Any:
        if column == "answer_aliases":
            return pa.list_(pa.field("element", pa.string(), nullable=False))
        return pa.int64() if column in _INTEGERS else pa.string()

    return pa.schema([pa.field(column, kind(column), nullable=False) for column in _COLUMNS])


# Key of the file's metadata: how many requests were never answered.
_FAILED = b"introspect.failed"


def save_rollouts(rollouts: Iterable[Rollout], path: str | Path, failed: int = 0) -> None:
    """Write rollouts as Parquet, in the given order; a crash never leaves half a file.

    Args:
        rollouts: of a run.
        path: of the file.
        failed: requests of the run that were never answered, kept beside the rollouts.

    Raises:
        InputError: there are no rollouts, or one is given twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, rollouts = Path(path), list(rollouts)
    if not rollouts:
        raise InputError(f"{path}: there are no rollouts to save")
    _check_unique(rollouts, path)
    values = {column: [getattr(rollout, field) for rollout in rollouts] for column, field in _COLUMNS.items()}
    with replacing(path) as partial:
        schema = _schema().with_metadata({_FAILED: str(failed)})
        pq.write_table(pa.table(values, schema=schema), partial, compression="zstd")


def load_rollouts(path: str | Path, limit: int | None = None) -> list[Rollout]:
    """Read the rollouts of a Parquet file, in the file's order; with a limit, only so many from its beginning.

    Files that other libraries wrote are read too: any string and integer width will do, and columns of their own are
    left alone.

    Raises:
        InputError: the file is missing, is no Parquet or holds no rollouts; a column is missing, of another type,
            has an empty cell or a value out of range; or a rollout is there twice.
    """
    path = Path(path)
    table = _read_table(path, limit)
    columns = [table.column(column).to_pylist() for column in _STORED]
    fields = [_COLUMNS[column] for column in _STORED]
    rollouts = [_rollout(dict(zip(fields, row, strict=True))) for row in zip(*columns, strict=True)]
    if not rollouts:
        raise InputError(f"{path}: holds no rollouts")
    for row, rollout in enumerate(rollouts):
        if complaint := _complaint(rollout):
            raise InputError(f"{path}: row {row}: {complaint}")
    _check_unique(rollouts, path)
    return rollouts


def failed_requests(path: str | Path) -> int:
    """How many requests of a saved run were never answered; 0 for a file that does not say."""
    import pyarrow.parquet as pq

    metadata = pq.read_schema(path).metadata or {}
    return int(metadata.get(_FAILED, b"0"))


def _read_table(path: Path, limit: int | None) -> Any:
    """The stored columns of a file's first rows, each checked for its type and for empty cells."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"{path}: no such file of rollouts")
    try:
        with pq.ParquetFile(path) as file:
            table = file.read() if limit is None else _first_rows(file, limit)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file of rollouts ({first_line(error)})") from error
    for column in _STORED:
        if column not in table.column_names:
            raise InputError(f"{path}: column {column!r} is missing; rollouts have {', '.join(_STORED)}")
        expected, is_expected = _expectation(column)
        values = table.column(column)
        if not is_expected(values.type):
            raise InputError(f"{path}: column {column!r} holds {values.type}, expected {expected}")
        if values.null_count:
            row = values.is_null().to_pylist().index(True)
            raise InputError(f"{path}: row {row}: column {column!r} is empty, expected {expected}")
    return table


def _first_rows(file: Any, limit: int) -> Any:
    import pyarrow as pa

    batch = next(file.iter_batches(batch_size=limit), None)
    return file.schema_arrow.empty_table() if batch is None else pa.Table.from_batches([batch])


def _expectation(column: str) -> tuple[str, Callable[[Any], bool]]:
    """What a column must hold, in words and as a test of its Arrow type."""
    from pyarrow import types

    def is_text(kind: Any) -> bool:
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

    def is_texts(kind: Any) -> bool:
        # A writer that saw only empty lists cannot know what they would have held.
        is_list = types.is_list(kind) or types.is_large_list(kind)
        return is_list and (is_text(kind.value_type) or types.is_null(kind.value_type))

    if column == "answer_aliases":
        return "lists of strings", is_texts
    return ("integers", types.is_integer) if column in _INTEGERS else ("strings", is_text)


def _rollout(values: Mapping[str, Any]) -> Rollout:
    return Rollout(**{**values, "aliases": tuple(values["aliases"])})


def _complaint(rollout: Rollout) -> str | None:
    """What is wrong with a rollout's values, if anything."""
    for column in _INTEGERS:
        if (value := getattr(rollout, column)) < 0:
            return f"column {column!r} is {value}, expected 0 or more"
    if rollout.reasoning_tokens > rollout.completion_tokens:
        return f"column 'reasoning_tokens' is {rollout.reasoning_tokens}, more than completion_tokens"
    if rollout.tier not in get_args(Tier):
        return f"column 'tier' is {rollout.tier!r}, expected one of {', '.join(get_args(Tier))}"
    if None in rollout.aliases:
        return "column 'answer_aliases' has an empty element, expected strings"
    return None


def _check_unique(rollouts: Iterable[Rollout], path: Path) -> None:
    seen: set[tuple[str, int]] = set()
    for row, rollout in enumerate(rollouts):
        key = (rollout.example_id, rollout.rollout_id)
        if key in seen:
            raise InputError(f"{path}: row {row}: example {key[0]!r} has rollout {key[1]} twice")
        seen.add(key)
