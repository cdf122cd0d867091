"""Annotated evidence in words: what the oracle's writers have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from introspect.benchmarks.answers import normalize_answer
from introspect.benchmarks.examples import Document, EvidenceStep, MultiHopExample

# A wording of a phrase, drawn and filled in.
Phrase = Callable[..., str]


def step_lines(step: EvidenceStep, goal: str | None, document: Document, say: Phrase) -> list[str]:
    """A step in the oracle's own words: what a document says, and what follows from it."""
    conclusion = None
    if goal and step.finding:
        asked = goal.endswith("?")
        said = goal[:1].upper() + goal[1:] if asked else goal
        conclusion = say("conclude_question" if asked else "conclude", goal=said, finding=step.finding.rstrip("."))
    if conclusion and normalize_answer(f"{goal} is {step.finding}") == normalize_answer(step.statement):
        return [step.statement]
    quote = say("quote", title=document.title, statement=step.statement.strip())
    return [quote, conclusion] if conclusion else [quote]


def fill_goals(evidence: Sequence[EvidenceStep]) -> list[str | None]:
    """Each step's goal with `#k` replaced by what step k found."""

    def fill(match: re.Match[str]) -> str:
        earlier = int(match[1]) - 1
        return (evidence[earlier].finding if 0 <= earlier < len(evidence) else None) or match[0]

    return [re.sub(r"#(\d+)", fill, step.goal) if step.goal else None for step in evidence]


def plan_goals(evidence: Sequence[EvidenceStep]) -> list[str]:
    """Goals as they can be planned before anything is found: an earlier finding is only "that"."""

    def name(number: int, match: re.Match[str]) -> str:
        return "that" if int(match[1]) == number else f"what step {match[1]} finds"

    return [
        re.sub(r"#(\d+)", partial(name, number), (step.goal or "").rstrip("?")) for number, step in enumerate(evidence)
    ]


def starting_titles(example: MultiHopExample) -> list[str]:
    """Titles of the evidence documents that the question itself names; the first step's where it names none."""
    question = f" {normalize_answer(example.question)} "
    titles = unique(example.documents[step.document].title for step in example.evidence)
    return [t for t in titles if f" {normalize_answer(t)} " in question] or titles[:1]


def unique(items: Iterable[str]) -> list[str]:
    """The items without repetitions, in their order."""
    return list(dict.fromkeys(items))


def join_words(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def end_sentence(text: str, mark: str = ".") -> str:
    """The text, ended by the mark where nothing ends it."""
    text = text.strip()
    return text if text[-1:] in ".!?\"'”" else text + mark
