"""The one form in which every multi-hop question travels through the framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tier = Literal["easy", "medium", "hard"]


@dataclass(frozen=True, slots=True)
class Document:
    """One paragraph of the context.

    Attributes:
        title: of the article.
        sentences: of the paragraph.
        label: the number shown to the model in `Document [label]`: the position for HotpotQA and 2WikiMultiHopQA, the
            paragraph's own `idx` for MuSiQue.
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
    """One step of the annotated solution, in the order of the reasoning.

    Attributes:
        document: index into `MultiHopExample.documents`.
        statement: the sentence that states the fact.
        goal: what the step finds out, where the benchmark annotates it. A goal that builds on an earlier finding names
            it `#k`, k counting the steps from 1 (MuSiQue's notation).
        finding: what the step finds, where the benchmark annotates it.
    """

    document: int
    statement: str
    goal: str | None = None
    finding: str | None = None


@dataclass(frozen=True, slots=True)
class MultiHopExample:
    """A question over several documents, with the solution that its benchmark annotates.

    Attributes:
        id: the benchmark's own, unique within a split.
        benchmark: name of the benchmark.
        question: as it is asked.
        answer: the primary accepted answer.
        documents: the context.
        evidence: the annotated solution; empty where the annotation is unusable.
        hops: number of documents or sub-questions that the annotated solution chains.
        tier: difficulty.
        aliases: further accepted answers.
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
