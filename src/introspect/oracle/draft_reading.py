"""Reading a draft: which of its sentences are sound steps, where it went wrong, where it repeats itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from introspect.benchmarks.answers import normalize_answer
from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.protocol import extract_answer, split_reasoning
from introspect.oracle.solution import contains, end_sentence, solution_steps

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
# A draft's sentence that doubts, plans or concludes is not a step that can be kept.
_NOT_A_STEP = re.compile(r"\?|\b(wait|hmm|maybe|perhaps|not sure|might|could|let me|let's|should)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DraftReading:
    """What the oracle found in a draft.

    Attributes:
        kept: for each evidence step, the draft's own sentence that makes it, or None.
        answer: the draft's final answer where it is wrong, else None.
        wandered: titles of documents that the draft read and that no step needs, in order of first mention.
        repeated: the step that the draft made most often, and how often.
        finished: whether the draft came to an end.
    """

    kept: tuple[str | None, ...]
    answer: str | None
    wandered: tuple[str, ...]
    repeated: tuple[int, int]
    finished: bool


def read_draft(draft: str, example: MultiHopExample) -> DraftReading:
    """Compare a student's draft with the annotated evidence, by normalised words."""
    text = split_reasoning(draft)
    answer = extract_answer(text.content or draft)
    sentences = [sentence.strip() for sentence in _SENTENCE.split(text.reasoning + "\n" + text.content)]
    normalised = [normalize_answer(sentence) for sentence in sentences]
    usable = [bool(s) and len(s) < 400 and not _NOT_A_STEP.search(s) and "<" not in s for s in sentences]
    kept: list[str | None] = []
    counts: list[int] = []
    for step in solution_steps(example):
        makes = [step.is_made(words, in_any_order=True) for words in normalised]
        kept.append(
            next((end_sentence(s) for s, ok, made in zip(sentences, usable, makes, strict=True) if ok and made), None)
        )
        counts.append(sum(makes))
    needed = {step.document for step in example.evidence}
    references = {normalize_answer(reference) for reference in example.references}
    mentioned = " ".join(normalised)
    wandered = [
        (mentioned.find(title), document.title)
        for index, document in enumerate(example.documents)
        if index not in needed and (title := normalize_answer(document.title)) and contains(mentioned, title)
    ]
    busiest = max(range(len(counts)), key=counts.__getitem__)
    return DraftReading(
        kept=tuple(kept),
        answer=answer if normalize_answer(answer) not in references | {""} else None,
        wandered=tuple(title for _, title in sorted(wandered)),
        repeated=(busiest, counts[busiest]),
        finished=bool(answer),
    )
