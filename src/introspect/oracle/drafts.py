"""Reading a draft: which of its sentences are sound steps, where it went wrong, where it went round in circles."""

from __future__ import annotations

import re
from dataclasses import dataclass

from introspect.benchmarks.answers import normalize_answer
from introspect.benchmarks.examples import Document, EvidenceStep, MultiHopExample
from introspect.chat.protocol import extract_answer, split_reasoning
from introspect.oracle.evidence import end_sentence, fill_goals

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
# A draft's sentence that doubts, plans or concludes is not a step that can be kept.
_NOT_A_STEP = re.compile(r"\?|\b(wait|hmm|maybe|perhaps|not sure|might|could|let me|let's|should)\b", re.IGNORECASE)
# As `normalize_answer` leaves them.
_DENIALS = {"not", "no", "never", "neither", "nor", "cannot", "isnt", "wasnt", "doesnt", "didnt", "arent", "werent"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What the oracle found in a draft.

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


def read_draft(draft: str, example: MultiHopExample) -> Reading:
    """Compare a student's draft with the annotated evidence, by normalised words."""
    text = split_reasoning(draft)
    answer = extract_answer(text.content or draft)
    sentences = [sentence.strip() for sentence in _SENTENCE.split(text.reasoning + "\n" + text.content)]
    plain = [normalize_answer(sentence) for sentence in sentences]
    usable = [bool(s) and len(s) < 400 and not _NOT_A_STEP.search(s) and "<" not in s for s in sentences]
    goals = fill_goals(example.evidence)
    kept: list[str | None] = []
    counts: list[int] = []
    for step, goal in zip(example.evidence, goals, strict=True):
        makes = [_makes_step(words, step, goal, example.documents[step.document], example.question) for words in plain]
        kept.append(
            next((end_sentence(s) for s, ok, made in zip(sentences, usable, makes, strict=True) if ok and made), None)
        )
        counts.append(sum(makes))
    needed = {step.document for step in example.evidence}
    references = {normalize_answer(reference) for reference in example.references}
    mentioned = " ".join(plain)
    wandered = [
        (mentioned.find(title), document.title)
        for index, document in enumerate(example.documents)
        if index not in needed and (title := normalize_answer(document.title)) and f" {title} " in f" {mentioned} "
    ]
    busiest = max(range(len(counts)), key=counts.__getitem__)
    return Reading(
        kept=tuple(kept),
        answer=answer if normalize_answer(answer) not in references | {""} else None,
        wandered=tuple(title for _, title in sorted(wandered)),
        repeated=(busiest, counts[busiest]),
        finished=bool(answer),
    )


def _makes_step(sentence: str, step: EvidenceStep, goal: str | None, document: Document, question: str) -> bool:
    """Whether a normalised sentence of a draft makes an evidence step, and says nothing else.

    It does if it repeats the statement, or names both what was looked for and what was found; without an annotated
    finding, if it names the document, carries half of the statement's words, and none of its words are its own
    invention: each stands in the document or in the question. What it denies it does not state.
    """
    if not sentence:
        return False
    statement = normalize_answer(step.statement)
    said, words = set(sentence.split()), set(statement.split())
    if _DENIALS & (said - words):
        return False
    if statement in sentence:
        return True
    if step.finding and goal:
        finding = normalize_answer(step.finding)
        aim = set(normalize_answer(goal).split()) - {"of", "in", "is"}
        return f" {finding} " in f" {sentence} " and bool(aim) and aim <= said
    if normalize_answer(document.title) not in sentence or len(words & said) < 0.5 * len(words):
        return False
    known = set(normalize_answer(f"{document.title} {document.text} {question}").split())
    return all(word in known or len(word) < 4 for word in said)
