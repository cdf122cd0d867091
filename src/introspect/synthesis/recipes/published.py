"""Traces that exist already: the training sets of the paper, or any under their column names."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from introspect.benchmarks.examples import MultiHopExample
from introspect.benchmarks.rows import Row
from introspect.chat.protocol import Message, extract_answer, join_reasoning, split_reasoning, tag_answer
from introspect.core.errors import InputError
from introspect.synthesis.acceptance import collect, find_text_fault, parse_criterion
from introspect.synthesis.published import PublishedSet, example_id_of, messages_of
from introspect.synthesis.recipes.base import Models, Recipe
from introspect.synthesis.traces import Draft, Trace, TraceSet

Target = Literal["refined_trace", "synthesized_trace", "response"]
log = logging.getLogger(__name__)

AUTO, EVALUATION = "auto", "evaluation"

_QUESTION = ("sample_id", "question", "answer", "prompt")
_FILTERS: Mapping[Target, tuple[str, ...]] = {
    "refined_trace": ("valid", "rollout_id", "trace_id"),
    "synthesized_trace": (),
    "response": ("valid", "rollout_id"),
}


class Published(Recipe):
    """Reads traces instead of making them, with the row filters and targets of the reference's `train/sft.py`.

    | target | rows | what is learnt |
    |---|---|---|
    | `refined_trace` (mbt-r, distill-r, direct-r) | valid drafts | the trace as think block, and the gold answer |
    | `synthesized_trace` (mbt-s) | all | the trace as think block, and the gold answer |
    | `response` (self-distill, gpt-oss-distill) | valid and accepted rollouts | the response unchanged |

    Args:
        source, config, split, revision: what is read; see `published.PublishedSet`.
        target: the column that is learnt; `auto` takes the first of the table above that is there.
        num_rollouts: rollouts of a question that are taken, by number; None takes all.
        num_traces: rewrites of a rollout that are taken, by number; None takes all.
        accept: which responses count as correct: those of the column `evaluation`, or a criterion of
            `acceptance.parse_criterion` that is applied here.
        gate: also reject traces by `acceptance.find_text_fault`, as ours are; the published ones were not filtered so.
        examples: questions that are taken, the first of the set; None takes all.

    Raises:
        InputError: a setting is out of range, or the source cannot be read.
    """

    name = "published"
    reads_questions = False

    def __init__(
        self,
        *,
        source: str | Path,
        config: str | None = None,
        split: str = "train",
        revision: str | None = None,
        target: str = AUTO,
        num_rollouts: int | None = None,
        num_traces: int | None = None,
        accept: str = EVALUATION,
        gate: bool = False,
        examples: int | None = None,
    ) -> None:
        if target not in (AUTO, *get_args(Target)):
            raise InputError(f"recipe.target is {target!r}, expected {', '.join((AUTO, *get_args(Target)))}")
        self.source = {"source": source, "config": config, "split": split, "revision": revision}
        self.target = target
        self.limits = {"rollout": num_rollouts, "trace": num_traces}
        self.criterion = None if accept == EVALUATION else parse_criterion(accept)
        self.gate = gate
        self.examples = examples

    @property
    def settings(self) -> Mapping[str, object]:
        """The source and the filters; of the target, the column that was found."""
        accept = self.criterion.name if self.criterion else EVALUATION
        limits = {f"num_{name}s": limit for name, limit in self.limits.items()}
        source = {**self.source, "source": str(self.source["source"])}
        return {**source, "target": self.target, "accept": accept, "gate": self.gate, **limits}

    def synthesize(self, examples: Sequence[MultiHopExample], models: Models) -> TraceSet:
        """Make one candidate per row, without any model.

        Rejections: `invalid` (the rollout did not end by itself), `wrong` (it is not accepted), `beyond_rollouts` and
        `beyond_traces` (by number), `empty`, with `gate` those of `acceptance.find_text_fault`, and `duplicate`.

        Raises:
            InputError: a column is missing, or a cell is not what it should be; naming row and column.
        """
        table = PublishedSet(**self.source)  # type: ignore[arg-type]
        self.target = target = self._find_target(table)
        made = collect(list(self._candidates(table, target)))
        bare = sum(not split_reasoning(trace.target).reasoning for trace in made.traces)
        if bare:
            log.warning("%s: %d of %d targets have no think block", table.source, bare, len(made.traces))
        return made

    def _find_target(self, table: PublishedSet) -> Target:
        columns: tuple[Target, ...] = get_args(Target)
        wanted = [column for column in columns if self.target in (AUTO, column)]
        found = next((column for column in wanted if column in table.columns), wanted[0])
        table.check([found], f"; recipe.target can be {', '.join(columns)}")
        table.check([*_QUESTION, *_FILTERS[found]])
        if found == "response" and self.criterion is None:
            table.check([EVALUATION], "; recipe.accept=exact_match would judge the answers here")
        return found

    def _candidates(self, table: PublishedSet, target: Target) -> Iterator[tuple[str | None, Trace]]:
        seen: dict[tuple[str, int, int], int] = {}
        questions: set[str] = set()
        needed = [*_QUESTION, target, *_FILTERS[target]]
        for row in table.rows(needed, ("metadata", "answer_aliases", "response", EVALUATION)):
            question = example_id_of(row)
            if question not in questions and len(questions) == self.examples:
                continue  # rows of a question may stand apart
            questions.add(question)
            trace = self._trace(row, question, target)
            key = (trace.example_id, trace.rollout_id, trace.trace_id)
            if key in seen:
                raise row.error("sample_id", f"{key} (question, rollout, trace from 0) is also in row {seen[key]}")
            seen[key] = row.number
            yield self._find_fault(row, trace, target), trace

    def _trace(self, row: Row, question: str, target: Target) -> Trace:
        text = row.cell(row.value(target), str, target)
        answer = tag_answer(row.text("answer"))
        draft = None
        if target == "refined_trace" and isinstance(response := row.values.get("response"), str):
            draft = Draft(*split_reasoning(response)[:2], finished=_truth(row, "valid"))
        return Trace(
            example_id=question,
            rollout_id=_number(row, "rollout_id") if "rollout_id" in _FILTERS[target] else 0,
            trace_id=_number(row, "trace_id") if "trace_id" in _FILTERS[target] else 0,
            recipe=self.name,
            messages=messages_of(row, "prompt"),
            target=text if target == "response" else join_reasoning(text.strip(), answer),
            draft=draft,
        )

    def _find_fault(self, row: Row, trace: Trace, target: Target) -> str | None:
        if "valid" in _FILTERS[target] and not _truth(row, "valid"):
            return "invalid"
        for name, number in (("rollout", trace.rollout_id), ("trace", trace.trace_id)):
            limit = self.limits[name]
            if limit is not None and number >= limit:
                return f"beyond_{name}s"
        text = str(row.values[target])
        if not text.strip():
            return "empty"
        references = (row.text("answer"), *row.texts(row.values.get("answer_aliases") or [], "answer_aliases"))
        if target == "response":
            return None if self._accepts(row, text, references) else "wrong"
        source = f"{row.text('question')}\n{trace.messages[-1].content}"
        return find_text_fault(text, source, references) if self.gate else None

    def _accepts(self, row: Row, response: str, references: Sequence[str]) -> bool:
        if self.criterion is None:
            return _truth(row, EVALUATION)
        return self.criterion.accepts(extract_answer(split_reasoning(response).content), references)


class PublishedGuides:
    """Solution guides that exist already (`solutions-gpt-oss-120b`), for `recipe.guides`.

    They are joined with questions on the benchmark's id, and, where the set does not tell it, on the wording of
    question and answer.

    Args:
        source, config, split, revision: what is read; see `published.PublishedSet`.
    """

    def __init__(
        self, *, source: str | Path, config: str | None = None, split: str = "train", revision: str | None = None
    ) -> None:
        self.source: dict[str, Any] = {"source": source, "config": config, "split": split, "revision": revision}

    def __str__(self) -> str:
        return "/".join(str(part) for part in self.source.values() if part)

    def turns(self, examples: Sequence[MultiHopExample]) -> dict[str, tuple[Message, ...]]:
        """Return the turns that request a guide and give it, by example id; examples without a guide are left out.

        Raises:
            InputError: the set cannot be read, or a guide is about another question than its id says.
        """
        by_id = {example.id: example for example in examples}
        by_words = {(example.question, example.answer): example for example in examples}
        found: dict[str, tuple[Message, ...]] = {}
        table = PublishedSet(**self.source)
        for row in table.rows(("sample_id", "question", "answer", "solution_prompt", "solution"), ("metadata",)):
            words = (row.text("question"), row.text("answer"))
            example = by_id.get(example_id_of(row)) or by_words.get(words)
            if example is None:
                continue
            if words != (example.question, example.answer):
                raise row.error("question", f"is not the one with the id {example.id!r} in {example.benchmark}")
            guide = row.cell(row.value("solution"), str, "solution").strip()
            found[example.id] = (*messages_of(row, "solution_prompt"), Message("assistant", guide))
        return found


def _number(row: Row, column: str) -> int:
    """Return a number that counts from 1 as one that counts from 0."""
    number = row.cell(row.value(column), int, column)
    if number < 1:
        raise row.error(column, f"expected a number from 1 on, got {number}")
    return number - 1


def _truth(row: Row, column: str) -> bool:
    """Return a truth value: true and false, or 1 and 0."""
    value = row.value(column)
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise row.error(column, f"expected true or false, got {'null' if value is None else repr(value)}")
    return bool(value)
