"""The annotated solution of an item in normalised words, as a trace is compared with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from introspect.benchmarks.answers import normalize_answer
from introspect.benchmarks.examples import EvidenceStep, MultiHopExample

DENIALS = {"not", "no", "never", "neither", "nor", "cannot", "isnt", "wasnt", "doesnt", "didnt", "arent", "werent"}
FILLER = {"of", "in", "is", "was", "by", "what", "who", "which", "where", "when", "did", "does"}


@dataclass(frozen=True, slots=True)
class Step:
    """An annotated step in normalised words: the statement, what was looked for and of what, what was found, where."""

    statement: str
    goal: frozenset[str]
    subject: str
    finding: str
    title: str
    known: frozenset[str]

    def is_made(self, said: str) -> bool:
        """Whether a normalised sentence makes the step.

        It does if it repeats the statement, or names what was sought and what was found; where that is not annotated,
        if it carries half of the statement's words and invents none.
        """
        words, statement = set(said.split()), set(self.statement.split())
        if not words or not statement or DENIALS & (words - statement):
            return False
        if self.statement in said:
            return True
        if self.finding and self.goal:
            return has(said, self.finding) and self._is_sought_in(said, words)
        enough = self.title in said and len(statement & words) >= 0.5 * len(statement)
        return enough and all(word in self.known or len(word) < 4 for word in words)

    def _is_sought_in(self, said: str, words: set[str]) -> bool:
        """The capital of Cuba is Lima, or Cuba's capital; the capital of Lima is not Cuba."""
        if not self.subject:
            return self.goal <= words
        owned = has(said, f"of {self.subject}") or has(said, f"{self.subject}s")
        return owned and self.goal - set(self.subject.split()) <= words


def solution_steps(example: MultiHopExample) -> tuple[Step, ...]:
    """The annotated steps in their order, with earlier findings in the place of their numbers."""
    findings = [step.finding or "" for step in example.evidence]

    def fill(match: re.Match[str]) -> str:
        earlier = int(match[1]) - 1
        return findings[earlier] if 0 <= earlier < len(findings) else match[0]

    def plain(step: EvidenceStep) -> Step:
        document = example.documents[step.document]
        goal = normalize_answer(re.sub(r"#(\d+)", fill, step.goal or ""))
        return Step(
            statement=normalize_answer(step.statement),
            goal=frozenset(goal.split()) - FILLER,
            subject=goal.rpartition(" of ")[2] if " of " in goal else "",
            finding=normalize_answer(step.finding or ""),
            title=normalize_answer(document.title),
            known=frozenset(normalize_answer(f"{document.title} {document.text} {example.question}").split()),
        )

    return tuple(map(plain, example.evidence))


def asides(example: MultiHopExample, steps: Sequence[Step]) -> tuple[str, ...]:
    """The documents' sentences, normalised, that are no step's statement."""
    said = (normalize_answer(sentence) for document in example.documents for sentence in document.sentences)
    statements = [step.statement for step in steps]
    return tuple(text for text in said if text and not any(text in s or s in text for s in statements))


def names(example: MultiHopExample) -> set[str]:
    """Capitalised words inside the documents' sentences, normalised: what an alternative may be called."""
    found = (re.findall(r"(?<=\s)[A-Z]\w+", sentence) for d in example.documents for sentence in d.sentences)
    return {name for names in found for name in map(normalize_answer, names) if name}


def has(text: str, phrase: str) -> bool:
    """Whether a normalised text contains a normalised phrase as whole words."""
    return f" {phrase} " in f" {text} "
