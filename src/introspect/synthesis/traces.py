"""What a student is tuned on: a reasoning trace and its answer, where they came from, and the file that keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from introspect.chat.protocol import Message
from introspect.core.parquet import Table

# What the traces of a recipe are: rewritten drafts, written from scratch, or answers as they were given.
Kind = Literal["rewrite", "synthesis", "rollout"]


@dataclass(frozen=True, slots=True)
class Draft:
    """The answer that a trace was rewritten from.

    Attributes:
        reasoning: its think block.
        content: what follows it.
        finished: whether it ended by itself.
    """

    reasoning: str
    content: str
    finished: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """One supervised conversation; (`example_id`, `rollout_id`, `trace_id`) is unique in a trace set.

    Attributes:
        example_id: the question.
        rollout_id: number of the draft of the example, from 0.
        trace_id: number of the rewrite of the draft, from 0.
        recipe: name of the recipe.
        messages: the prompt of the student.
        target: the assistant turn that it learns, think block and answer.
        draft: what was rewritten; None where nothing was.
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


def _complaint(trace: Trace) -> str | None:
    """What is wrong with a trace's values, if anything."""
    for name in ("example_id", "recipe", "target"):
        if not getattr(trace, name):
            return f"column {name!r} is empty, expected strings"
    return None if trace.messages else "column 'messages' has no message"


TRACES = Table(Trace, "traces", key=("example_id", "rollout_id", "trace_id"), check=_complaint)


def save_traces(traces: Iterable[Trace], path: str | Path) -> None:
    """Write traces as Parquet, in the given order; a crash never leaves half a file.

    One row per trace and one column per field; `messages` is a JSON list of `{"role", "content"}`, `draft` a JSON
    object or null.

    Raises:
        InputError: a trace is there twice.
    """
    TRACES.write(path, traces)


def load_traces(path: str | Path) -> tuple[Trace, ...]:
    """Read the traces of a Parquet file, in the file's order; columns beyond those of a trace are left alone.

    Raises:
        InputError: see `core.parquet.Table.read`.
    """
    return tuple(TRACES.read(path))
