"""The annotated solution of an item, in normalised words: what drafts and traces are compared with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from introspect.benchmarks.answers import normalize_answer
from introspect.benchmarks.examples import EvidenceStep, MultiHopExample

# As `normalize_answer` leaves them.
DENIALS = {"not", "no", "never", "neither", "nor", "cannot", "isnt", "wasnt", "doesnt", "didnt", "arent", "werent"}
FILLER = {"of", "in", "is", "was", "by", "what", "who", "which", "where", "when", "did", "does"}


@dataclass(frozen=True, slots=True)
class Step:
    """An annotated step in normalised words.

    Attributes:
        statement: the sentence that states the fact.
        goal: the words of what is looked for, without filler.
        subject: whose property is looked for; empty if the goal names none.
        finding: what is found.
        title: of the document that states it.
        known: the words of the document and of the question.
    """

    statement: str
    goal: frozenset[str]
    subject: str
    finding: str
    title: str
    known: frozenset[str]

    def is_made(self, said: str, *, in_any_order: bool = False) -> bool:
        """Whether a normalised sentence makes the step.

        It does if it repeats the statement, or names what was sought and what was found; where that is not annotated,
        if it carries half of the statement's words and invents none. What it denies it does not state.

        Args:
            said: the sentence.
            in_any_order: accept what is sought in whatever order of its words.
        """
        words, statement = set(said.split()), set(self.statement.split())
        if not words or not statement or DENIALS & (words - statement):
            return False
        if self.statement in said:
            return True
        if self.finding and self.goal:
            return contains(said, self.finding) and (
                self.goal <= words if in_any_order else self._is_sought_in(said, words)
            )
        enough = self.title in said and len(statement & words) >= 0.5 * len(statement)
        return enough and all(word in self.known or len(word) < 4 for word in words)

    def _is_sought_in(self, said: str, words: set[str]) -> bool:
        """The capital of Cuba is Lima, or Cuba's capital; the capital of Lima is not Cuba."""
        if not self.subject:
            return self.goal <= words
        owned = contains(said, f"of {self.subject}") or contains(said, f"{self.subject}s")
        return owned and self.goal - set(self.subject.split()) <= words


def solution_steps(example: MultiHopExample) -> tuple[Step, ...]:
    """Normalise the annotated steps, with earlier findings in the place of their numbers."""

    def normalised(step: EvidenceStep, filled: str | None) -> Step:
        document = example.documents[step.document]
        goal = normalize_answer(filled or "")
        return Step(
            statement=normalize_answer(step.statement),
            goal=frozenset(goal.split()) - FILLER,
            subject=goal.rpartition(" of ")[2] if " of " in goal else "",
            finding=normalize_answer(step.finding or ""),
            title=normalize_answer(document.title),
            known=frozenset(normalize_answer(f"{document.title} {document.text} {example.question}").split()),
        )

    return tuple(map(normalised, example.evidence, fill_goals(example.evidence)))


def fill_goals(evidence: Sequence[EvidenceStep]) -> list[str | None]:
    """Give each step's goal with `#k` replaced by what step k found."""

    def fill(match: re.Match[str]) -> str:
        earlier = int(match[1]) - 1
        return (evidence[earlier].finding if 0 <= earlier < len(evidence) else None) or match[0]

    return [re.sub(r"#(\d+)", fill, step.goal) if step.goal else None for step in evidence]


def other_sentences(example: MultiHopExample, steps: Sequence[Step]) -> tuple[str, ...]:
    """Give the documents' sentences, normalised, that are no step's statement."""
    said = (normalize_answer(sentence) for document in example.documents for sentence in document.sentences)
    statements = [step.statement for step in steps]
    return tuple(text for text in said if text and not any(text in s or s in text for s in statements))


def names(example: MultiHopExample) -> set[str]:
    """Give the capitalised words inside the documents' sentences, normalised: what an alternative may be called."""
    found = (re.findall(r"(?<=\s)[A-Z]\w+", sentence) for d in example.documents for sentence in d.sentences)
    return {name for names in found for name in map(normalize_answer, names) if name}


def contains(text: str, phrase: str) -> bool:
    """Whether a normalised text contains a normalised phrase as whole words."""
    return f" {phrase} " in f" {text} "


def end_sentence(text: str, mark: str = ".") -> str:
    """Append the mark to a text that nothing ends."""
    text = text.strip()
    return text if text[-1:] in ".!?\"'”" else text + mark
