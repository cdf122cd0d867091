"""MuSiQue-Ans (Trivedi et al. 2022, arXiv 2108.00573): twenty paragraphs, two to four chained sub-questions.

Reads `musique_ans_v1.0_train.jsonl` and `musique_ans_v1.0_dev.jsonl`, or the same items from the hub. The unanswerable
half of MuSiQue-Full is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from introspect.benchmarks.evidence import describe_relation, mentions, split_sentences, words
from introspect.benchmarks.examples import Document, EvidenceStep, MultiHopExample, Tier
from introspect.benchmarks.published import PublishedBenchmark
from introspect.benchmarks.rows import Row

_TIERS: dict[str, Tier] = {"2hop": "easy", "3hop": "medium", "4hop": "hard"}
_LONGEST = 400  # characters of a statement
_PLACEHOLDER = re.compile(r"#(\d+)")


class MuSiQue(PublishedBenchmark):
    """19,938 training and 2,417 test questions, with aliases."""

    name = "musique"
    published_at = ("dgslibisey/MuSiQue", None)

    def parse(self, row: Row) -> MultiHopExample:
        """See `PublishedBenchmark.parse`."""
        documents = _read_documents(row)
        steps = _read_decomposition(row)
        identifier = row.text("id")
        hops = re.match(r"(\d+)hop", identifier)
        return MultiHopExample(
            id=identifier,
            benchmark=self.name,
            question=row.text("question"),
            answer=row.text("answer"),
            aliases=row.texts(row.value("answer_aliases"), "answer_aliases"),
            documents=documents,
            evidence=_chain(row, documents, steps),
            hops=int(hops[1]) if hops else max(len(steps), 1),
            tier=tier(row.values),
        )

    def keep(self, row: Row) -> bool:
        """Whether the item is answerable."""
        answerable = row.cell(row.values.get("answerable", True), bool, "answerable")
        if not answerable:
            row.note("unanswerable item that was skipped")
        return answerable


class SubQuestion(NamedTuple):
    """One entry of `question_decomposition`; `paragraph` is the `idx` of the paragraph that answers it, or None."""

    question: str
    answer: str
    paragraph: int | None


def tier(row: Mapping[str, Any]) -> Tier:
    """Difficulty by the reference's rule: hops, read from the id; an unanswerable item is hard.

    Total: an id of another form, or none, is medium.
    """
    if not row.get("answerable", True):
        return "hard"
    return _TIERS.get(str(row.get("id", ""))[:4], "medium")


def _read_documents(row: Row) -> tuple[Document, ...]:
    """The paragraphs. Each is one sentence to us, so that it is rendered as it is, under its own `idx`."""
    table = row.table("paragraphs", "idx", "title", "paragraph_text")
    if not table:
        raise row.error("paragraphs", "holds no documents")
    documents = tuple(
        Document(
            title=row.cell(title, str, f"paragraphs[{i}].title"),
            sentences=(row.cell(text, str, f"paragraphs[{i}].paragraph_text"),),
            label=row.cell(label, int, f"paragraphs[{i}].idx"),
        )
        for i, (label, title, text) in enumerate(table)
    )
    if len({document.label for document in documents}) < len(documents):
        raise row.error("paragraphs", "two paragraphs have the same 'idx'")
    return documents


def _read_decomposition(row: Row) -> list[SubQuestion]:
    steps = []
    name = "question_decomposition"
    for i, (question, answer, paragraph) in enumerate(row.table(name, "question", "answer", "paragraph_support_idx")):
        question = row.cell(question, str, f"{name}[{i}].question")
        answer = row.cell(answer, str, f"{name}[{i}].answer")
        if paragraph is not None:
            paragraph = row.cell(paragraph, int, f"{name}[{i}].paragraph_support_idx")
        steps.append(SubQuestion(question, answer, paragraph))
    return steps


def _chain(row: Row, documents: tuple[Document, ...], steps: list[SubQuestion]) -> tuple[EvidenceStep, ...]:
    """One step per sub-question, or none at all if one has no paragraph: `#k` would then name the wrong step."""
    places = {document.label: i for i, document in enumerate(documents)}
    chain = []
    for step in steps:
        place = places.get(step.paragraph) if step.paragraph is not None else None
        if place is None:
            place = next((i for i, document in enumerate(documents) if mentions(document.text, step.answer)), None)
            row.note("sub-question whose paragraph is not there")
        if place is None:
            return ()
        asked = _PLACEHOLDER.sub(lambda match: _finding(steps, int(match[1])), step.question)
        statement = _statement(documents[place].text, step.answer, asked)
        chain.append(EvidenceStep(place, statement, goal=phrase(step.question), finding=step.answer))
    return tuple(chain)


def _finding(steps: list[SubQuestion], number: int) -> str:
    return steps[number - 1].answer if 0 < number <= len(steps) else ""


def _statement(text: str, answer: str, asked: str) -> str:
    """The sentence that contains the answer, of several the one nearest to what is asked; else the whole text."""
    telling = [sentence for sentence in split_sentences(text) if mentions(sentence, answer)]
    sought = _content(asked)
    return _clip(max(telling, key=lambda sentence: len(sought & _content(sentence)), default=text), answer)


def _content(text: str) -> set[str]:
    """The words that carry meaning, roughly: numbers, and words of four letters or more."""
    return {word for word in words(text).split() if len(word) > 3 or word.isdigit()}


def _clip(text: str, answer: str) -> str:
    """Cut a flattened table, which reads as one long sentence, to the words around the answer."""
    found = re.search(re.escape(answer), text, re.IGNORECASE)
    if len(text) <= _LONGEST or not found:
        return text
    start = text.rfind(" ", 0, max(found.start() - _LONGEST // 2, 0)) + 1
    end = text.find(" ", found.end() + _LONGEST // 2)
    return text[start : end if end > 0 else len(text)]


def phrase(question: str) -> str:
    """Put a sub-question in words; `#k`, the finding of step k, stays.

    `Silverton >> country` becomes the noun phrase `the country of Silverton`; anything else a question that begins
    with a capital and ends with a question mark.
    """
    question = re.sub(r"\s+(['’]s\b|[?.,)])", r"\1", " ".join(question.split()))
    subject, arrow, relation = question.partition(">>")
    if arrow:
        return describe_relation(relation.strip(), subject.strip())
    return f"{question[:1].upper()}{question[1:].rstrip(' ?.')}?"
