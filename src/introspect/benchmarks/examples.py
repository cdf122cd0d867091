"""The one form in which every multi-hop question travels through the framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tier = Literal["easy", "medium", "hard"]


@dataclass(frozen=True, slots=True)
class Document:
    """One paragraph of the context.

    `label` is the number shown to the model in `Document [label]`: the position for HotpotQA and
    2WikiMultiHopQA, the paragraph's own `idx` for MuSiQue.
    """

    title: str
    sentences: tuple[str, ...]
    label: int

    @property
    def text(self) -> str:
        """The sentences joined by one space, as the reference renders them (HotpotQA's own leading spaces stay)."""
        return " ".join(self.sentences)

    def render(self) -> str:
        """`Document [i] (Title: T) S`."""
        return f"Document [{self.label}] (Title: {self.title}) {self.text}"


@dataclass(frozen=True, slots=True)
class EvidenceStep:
    """One step of the annotated solution, in the order in which it is to be reasoned.

    `document` indexes `MultiHopExample.documents`; `statement` is the sentence that carries the fact;
    `goal` says what the step finds out and `finding` what it found, where the benchmark annotates them. A goal that
    builds on an earlier finding names it `#k`, k counting the steps from 1 (MuSiQue's notation).
    """

    document: int
    statement: str
    goal: str | None = None
    finding: str | None = None


@dataclass(frozen=True, slots=True)
class MultiHopExample:
    """A question over several documents, with the solution that its benchmark annotates.

    `id` is the benchmark's own and unique within a split; `aliases` are further accepted answers;
    `hops` is the number of documents or sub-questions that the annotated solution chains.
    """

    id: str
    benchmark: str
    question: str
    answer: str
    documents: tuple[Document, ...]
    evidence: tuple[EvidenceStep, ...]
    hops: int
    tier: Tier
    aliases: tuple[str, ...] = ()

    @property
    def context(self) -> str:
        """All documents, one per line."""
        return "\n".join(document.render() for document in self.documents)

    @property
    def references(self) -> tuple[str, ...]:
        """Every accepted answer, the primary one first."""
        return (self.answer, *self.aliases)
