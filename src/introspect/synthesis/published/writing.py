"""Our traces and rollouts as a data set with the published column names, as `datasets.load_dataset` reads it.

What is written is a folder like one on the Hugging Face hub: `data/<split>-00000-of-00001.parquet`, and a card.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from introspect.benchmarks.answers import exact_match
from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import Style, question_messages
from introspect.chat.protocol import Message, extract_answer, join_reasoning, split_reasoning
from introspect.core.errors import InputError
from introspect.core.files import write_text
from introspect.core.parquet import write_rows
from introspect.evaluation.rollouts import Rollout
from introspect.synthesis.traces import Draft, Kind, Trace

Record = TypeVar("Record", Trace, Rollout)
Row = dict[str, Any]

_UNITS: Mapping[Kind, str] = {"rewrite": "rewritten trace", "synthesis": "trace", "rollout": "answer"}
_CARD = """---
configs:
- config_name: default
  data_files:
  - split: {split}
    path: data/{split}-*.parquet
---

# Training data of a reasoning student

Written by `introspect`: one row per {unit}, under the column names of the training sets that were published with
arXiv 2602.22508. `sample_id` is the question's place in the data, from 1, and `metadata.id` the benchmark's own id;
rollouts and traces are numbered from 1.

{facts}
"""


@dataclass(frozen=True, slots=True)
class About:
    """The content of the card.

    Attributes:
        unit: what one row is about.
        split: the part that is written.
        facts: how the rows were made, by name.
    """

    unit: str
    split: str
    facts: Mapping[str, object]

    def render(self) -> str:
        """The card, in Markdown with the header that `datasets` reads."""
        facts = "\n".join(f"- {name}: {value}" for name, value in self.facts.items())
        return _CARD.format(unit=self.unit, split=self.split, facts=facts)


def export_traces(
    traces: Sequence[Trace],
    examples: Sequence[MultiHopExample],
    folder: str | Path,
    *,
    kind: Kind,
    facts: Mapping[str, object],
) -> Path:
    """Write the traces of a recipe.

    Args:
        traces: all of one recipe.
        examples: the questions that they are about, in the order of their benchmark.
        folder: made where it is missing.
        kind: what the traces are, which decides the columns: those of mbt-r, mbt-s or rollouts.
        facts: how the traces were made, for the card, such as the recipe and its settings.

    Returns:
        The folder.

    Raises:
        InputError: there are no traces, or one is about none of the questions.
    """
    rows = {"rewrite": _rewrite, "synthesis": _synthesis, "rollout": _accepted}
    return _write(traces, examples, folder, rows[kind], About(_UNITS[kind], "train", facts))


def export_rollouts(
    rollouts: Sequence[Rollout],
    examples: Sequence[MultiHopExample],
    folder: str | Path,
    *,
    split: str,
    facts: Mapping[str, object],
    prompt: Style = "plain",
) -> Path:
    """Write a student's answers, correct and wrong ones; `evaluation` is exact match.

    Args:
        rollouts: the answers.
        examples: the questions, in the order of their benchmark.
        folder: made where it is missing.
        split: name of the part that is written.
        facts: how the answers were made, for the card.
        prompt: the style of the questions.

    Returns:
        The folder.

    Raises:
        InputError: there are no rollouts, or one is about none of the questions.
    """

    def row(rollout: Rollout, example: MultiHopExample) -> Row:
        answer = Draft(rollout.reasoning, rollout.content, rollout.finished)
        return _rollout(rollout.rollout_id, answer, example, question_messages(example, prompt))

    return _write(rollouts, examples, folder, row, About(_UNITS["rollout"], split, facts))


def _rewrite(trace: Trace, example: MultiHopExample) -> Row:
    if trace.draft is None:
        raise InputError(f"trace {trace.example_id}/{trace.rollout_id}/{trace.trace_id}: the draft is not known")
    refined = {"trace_id": trace.trace_id + 1, "refined_trace": split_reasoning(trace.target).reasoning}
    return {**_rollout(trace.rollout_id, trace.draft, example, trace.messages), **refined}


def _synthesis(trace: Trace, example: MultiHopExample) -> Row:
    return {"prompt": _turns(trace.messages), "synthesized_trace": split_reasoning(trace.target).reasoning}


def _accepted(trace: Trace, example: MultiHopExample) -> Row:
    reasoning, content, _ = split_reasoning(trace.target)
    # By the recipe's criterion, which the card tells; the others were left out.
    return _rollout(trace.rollout_id, Draft(reasoning, content, True), example, trace.messages) | {"evaluation": True}


def _rollout(number: int, answer: Draft, example: MultiHopExample, prompt: Sequence[Message]) -> Row:
    predicted = extract_answer(answer.content)
    return {
        "rollout_id": number + 1,
        "prompt": _turns(prompt),
        "response": join_reasoning(answer.reasoning, answer.content),
        "valid": answer.finished,
        "reasoning_trace": answer.reasoning,
        "predicted_answer": predicted,
        "evaluation": exact_match(predicted, example.references) == 1.0,
    }


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _question(number: int, example: MultiHopExample, has_aliases: bool) -> Row:
    metadata = {name: getattr(example, name) for name in ("id", "benchmark", "hops", "tier")}
    row = {"sample_id": number, "metadata": metadata, "question": example.question, "answer": example.answer}
    return row | ({"answer_aliases": list(example.aliases)} if has_aliases else {})


def _schema(row: Row) -> Any:
    import pyarrow as pa

    text = pa.string()
    metadata = pa.struct({"id": text, "benchmark": text, "hops": pa.int64(), "tier": text})
    kinds = {
        "sample_id": pa.int64(),
        "metadata": metadata,
        "answer_aliases": pa.list_(text),
        "rollout_id": pa.int64(),
        "prompt": pa.list_(pa.struct({"role": text, "content": text})),
        "valid": pa.bool_(),
        "evaluation": pa.bool_(),
        "trace_id": pa.int64(),
    }
    return pa.schema([(column, kinds.get(column, text)) for column in row])


def _write(
    records: Sequence[Record],
    examples: Sequence[MultiHopExample],
    folder: str | Path,
    make: Callable[[Record, MultiHopExample], Row],
    about: About,
) -> Path:
    """One row per record, joined with its question by id; a crash leaves no half file."""
    folder = Path(folder)
    if not records:
        raise InputError(f"{folder}: there is nothing to export")
    has_aliases = any(example.aliases for example in examples)
    questions = {example.id: _question(n, example, has_aliases) for n, example in enumerate(examples, start=1)}
    by_id = {example.id: example for example in examples}
    if lost := next((record.example_id for record in records if record.example_id not in by_id), None):
        raise InputError(f"{folder}: {lost!r} is none of the {len(examples)} questions of the data")

    def row(record: Record) -> Row:
        return {**questions[record.example_id], **make(record, by_id[record.example_id])}

    schema = _schema(row(records[0]))
    path = folder / "data" / f"{about.split}-00000-of-00001.parquet"
    write_rows(path, schema, map(row, records))
    write_text(folder / "README.md", about.render())
    return folder
