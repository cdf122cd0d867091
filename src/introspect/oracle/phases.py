"""The five phases of a trace as its wording shows them, and where it first names the answer: for people who read it.

Needs the question alone, not the annotated solution that `oracle.trace_reading` compares a trace with. A sentence that
no rule below matches is execution: it states a finding.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from introspect.benchmarks.answers import find_reference, normalize_answer
from introspect.oracle.paragraphs import BLANK_LINE
from introspect.oracle.solution import DENIALS, FILLER

UNDERSTANDING, PLANNING, EXECUTION, CORRECTION, VERIFICATION = range(1, 6)

# Finer than the count of sentences: also at the end of a quotation.
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"'”’)])\s+|(?<=[\"”])\s+(?=[A-Z])")
REPLIES = DENIALS | {"yes", "none", "indeed", "correct"}
PLAN = re.compile(r"\bplan\b|\bto get there\b|\bfirst\b.*\bthen\b|\bfind\b.*\bthen\b", re.IGNORECASE)
SELECTION = re.compile(
    r"\b(documents?|paragraphs?)\b.*\b(matter|first|wait|relevant|aside|focus)\b|\b(start|begin)\b.*\bdocuments?\b",
    re.IGNORECASE,
)
VERIFYING = re.compile(r"\b(verify|verifying|verified|check|checking|confirm|confirming)\b", re.IGNORECASE)
SOUNDNESS = re.compile(r"\b(sound|holds?|right|correct|true|makes? sense)\b", re.IGNORECASE)
_DOUBT = re.compile(r"^(but )?wait\b|\bon second thought\b|\bactually\b|\bfeels? wrong\b|\bmistake\b", re.IGNORECASE)
_ASKED = re.compile(r"\b(questions?|ask(s|ed|ing)?|wants?|need)\b", re.IGNORECASE)
_CONCLUSION = re.compile(r"\banswer\b", re.IGNORECASE)
_REPLY = 12  # words of a sentence that only answers a look back, at most
_OVERLAP = 0.8  # share of the question's words from which a sentence repeats the question


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a trace in one phase.

    Attributes:
        text: the stretch as it is.
        phase: 1 to 5.
        shows: whether the trace passes through the phase here. Understanding does where documents are selected,
            execution where it is monitored ("Is this sound?"), and correction where a look back is answered at once;
            the rest of the three only has their colour.
    """

    text: str
    phase: int
    shows: bool


def passages(trace: str, question: str) -> list[Passage]:
    """Cut a trace where the phase changes; joined, the texts are the trace."""
    words = frozenset(normalize_answer(question).split()) - FILLER
    found = [passage for text in _pieces(trace, BLANK_LINE) for passage in _paragraph(text, words)]
    groups = groupby(found, key=lambda passage: (passage.phase, passage.shows))
    return [Passage("".join(passage.text for passage in group), *key) for key, group in groups]


def phases_present(parts: Sequence[Passage]) -> tuple[int, ...]:
    """Give the phases that a trace passes through, ascending."""
    return tuple(sorted({part.phase for part in parts if part.shows}))


def arrival(trace: str, references: Sequence[str]) -> tuple[int, int] | None:
    """Find the first place where a trace names an accepted answer, by the rule of `outcomes.answer_hit`.

    Returns:
        Start and end in the trace as it is; None where no answer is named.
    """
    words = [(normalize_answer(word[0]), word.span()) for word in re.finditer(r"\S+", trace)]
    kept = [(said, span) for said, span in words if said]
    text = " ".join(said for said, _ in kept)
    found = find_reference(text, references)
    if found is None:
        return None
    start, last = (text.count(" ", 0, place) for place in found)
    return _trimmed(trace, kept[start][1][0], kept[last][1][1])


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The stretch without the punctuation around it, which the normalised text is without."""
    stretch = text[start:end]
    return end - len(stretch.lstrip(string.punctuation)), start + len(stretch.rstrip(string.punctuation))


def _pieces(text: str, end: re.Pattern[str]) -> Iterator[str]:
    """A text cut after each match; joined, the pieces are the text."""
    start = 0
    for match in end.finditer(text):
        if match.end() > start:
            yield text[start : match.end()]
            start = match.end()
    if start < len(text):
        yield text[start:]


def _paragraph(text: str, question: frozenset[str]) -> Iterator[Passage]:
    """Its sentences. A short reply and a conclusion stay in the phase of the sentence before them."""
    before: Passage | None = None
    pieces = list(_pieces(text, SENTENCE_END))
    words = [frozenset(normalize_answer(piece).split()) for piece in pieces]
    for piece, said, following in zip(pieces, words, [*words[1:], frozenset()], strict=True):
        is_answered = bool(following & REPLIES)
        passage = _passage(piece, said, is_answered, question)
        if passage is None and before is not None and (_CONCLUSION.search(piece) or _is_reply(said)):
            passage = Passage(piece, before.phase, before.shows)
        before = passage or Passage(piece, EXECUTION, shows=False)
        yield before


def _is_reply(said: frozenset[str]) -> bool:
    return bool(said & REPLIES) and len(said) <= _REPLY


def _passage(piece: str, said: frozenset[str], is_answered: bool, question: frozenset[str]) -> Passage | None:
    """The first rule that knows the sentence decides: whether it holds, the phase, whether it shows it."""
    sentence = piece.strip()
    asks = sentence.endswith("?")
    repeats = bool(question) and len(question & said) >= _OVERLAP * len(question)
    rules = (
        (not asks and PLAN.search(sentence), PLANNING, True),
        ((asks or _ASKED.search(sentence)) and repeats, UNDERSTANDING, False),
        (not asks and SELECTION.search(sentence), UNDERSTANDING, True),
        (asks and SOUNDNESS.search(sentence), EXECUTION, True),
        (asks and is_answered, CORRECTION, True),
        (_DOUBT.search(sentence), CORRECTION, False),
        (not asks and VERIFYING.search(sentence), VERIFICATION, True),
    )
    return next((Passage(piece, phase, shows) for holds, phase, shows in rules if holds), None)
