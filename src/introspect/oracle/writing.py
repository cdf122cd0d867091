"""What the oracle writes: traces in five phases, plain solutions, a teacher's own answers, guides.

All of it is said in a few wordings; a text draws one of each.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from introspect.benchmarks.answers import normalize_answer
from introspect.benchmarks.examples import Document, EvidenceStep, MultiHopExample
from introspect.oracle.draft_reading import DraftReading
from introspect.oracle.solution import contains, end_sentence, fill_goals

# A wording of a phrase, drawn and filled in.
Phrase = Callable[..., str]

# Each phase has a few wordings; a trace draws one of each.
PHRASES: dict[str, tuple[str, ...]] = {
    "ask": ("The question is: {question}", "We are asked: {question}"),
    "filter": (
        "We start from the document on {titles}; the others can wait.",
        "The document on {titles} comes first; the others can wait.",
    ),
    "filter_many": (
        "The documents on {titles} matter; the others can wait.",
        "We start from the documents on {titles}; the others can wait.",
    ),
    "plan": ("The plan: find {goals}.", "To get there we find {goals}."),
    "plan_read": ("The plan: read about {titles} and join what we find.",),
    "quote": ('The document on {title} says: "{statement}"',),
    "conclude": ("So {goal} is {finding}.",),
    "conclude_question": ("{goal} {finding}.",),
    "sound": ("Is this sound? Yes.", "Does this hold? Yes."),
    "sound_kept": ("Is this sound? Yes.", "Does this hold? Yes."),
    "calm": ("Wait, did we mix up any documents? No.",),
    "wrong": ("Wait, what about {wrong}? The document on {title} speaks of it, not of what is asked.",),
    "wrong_unseen": ("Wait, what about {wrong}? No document says so.",),
    "wander": ("Wait, does the document on {title} matter? No, it is not what is asked.",),
    "loop": ("Wait, should we check again? No, every step holds.",),
    "verify": ("We verify: from {path}, as the question asks.",),
    "verify_read": ("We verify: every part of the question is met.",),
    "answer": ("The answer is {answer}.",),
}


# What only plain texts say; the words of steps are those of `PHRASES`.
PLAIN_PHRASES: dict[str, tuple[str, ...]] = {
    "open": ("Okay. The question is: {question}", "Okay. We are asked: {question}"),
    "look": ("Let me look at the document on {title}.", "Let me read the document on {title}."),
    "aside": ("It does not help.", "It is not what is asked."),
    "recall": ("Let me check again. {said}", "Let me check. {said}"),
    "settle": ("So the answer is {answer}.",),
}
# How often the teacher's own answer looks at a document that does not matter before a step, or back at the end.
_ASIDE, _RECALL = 0.5, 0.5


def _voice(rng: random.Random) -> Phrase:
    wordings = PHRASES | PLAIN_PHRASES
    return lambda phrase, **values: rng.choice(wordings[phrase]).format(**values)


def write_trace(example: MultiHopExample, rng: random.Random, draft: DraftReading | None = None) -> str:
    """The five phases as paragraphs; with a draft, its sound steps are kept and its wrong turn is mended."""
    say = _voice(rng)
    goals = fill_goals(example.evidence)
    titles = _starting_titles(example)
    needed = _unique(example.documents[step.document].title for step in example.evidence)
    paragraphs = [
        say("ask", question=end_sentence(example.question, "?"))
        + " "
        + say("filter" if len(titles) == 1 else "filter_many", titles=_join_words(titles)),
        say("plan", goals=", then ".join(_plan_goals(example.evidence)))
        if all(goals)
        else say("plan_read", titles=_join_words(needed)),
    ]
    for number, step in enumerate(example.evidence):
        kept = draft.kept[number] if draft else None
        lines = [kept] if kept else _step_lines(step, goals[number], example.documents[step.document], say)
        paragraphs.append(" ".join([*lines, say("sound_kept" if kept else "sound")]))
    paragraphs.append(_self_correction(example, draft, say))
    findings = [step.finding for step in example.evidence]
    path = _unique([*titles[:1], *(finding for finding in findings if finding)])
    chained = all(findings) and "#" in "".join(step.goal or "" for step in example.evidence[1:])
    closing = say("verify", path=" to ".join(path)) if chained else say("verify_read")
    paragraphs.append(f"{closing} {say('answer', answer=example.answer)}")
    return "\n\n".join(paragraphs)


def write_plain(example: MultiHopExample, rng: random.Random, draft: DraftReading | None = None) -> str:
    """One direct solution, a paragraph per step: nothing is planned, asked, doubted, corrected or checked."""
    say = _voice(rng)
    paragraphs = [say("ask", question=end_sentence(example.question, "?"))]
    paragraphs += [" ".join(lines) for lines in _steps(example, draft, say)]
    return "\n\n".join([*paragraphs, say("answer", answer=example.answer)])


def write_answer(example: MultiHopExample, rng: random.Random) -> str:
    """How a large reasoning model thinks aloud about a plain question, without knowing the answer.

    It reads documents that turn out not to matter, and looks back at what it found, but does not go wrong.
    """
    say = _voice(rng)
    needed = {step.document for step in example.evidence}
    others = [document.title for index, document in enumerate(example.documents) if index not in needed]
    rng.shuffle(others)
    paragraphs = [say("open", question=end_sentence(example.question, "?"))]
    steps = _steps(example, None, say)
    for lines in steps:
        if others and rng.random() < _ASIDE:
            paragraphs.append(f"{say('look', title=others.pop())} {say('aside')}")
        paragraphs.append(" ".join(lines))
    if rng.random() < _RECALL:
        paragraphs.append(say("recall", said=steps[-1][-1]))
    return "\n\n".join([*paragraphs, say("settle", answer=example.answer)])


def write_guide(example: MultiHopExample) -> str:
    """A guide to the solution, in plain text: what is asked, the steps, and what to beware of."""
    say = _voice(random.Random(0))
    needed = _unique(example.documents[step.document].title for step in example.evidence)
    others = _unique(document.title for document in example.documents if document.title not in needed)
    parts = [
        f"What is asked: {end_sentence(example.question, '?')} It takes {len(example.evidence)} steps,"
        f" over the documents on {_join_words(needed)}.",
        *(f"Step {number}: {' '.join(lines)}" for number, lines in enumerate(_steps(example, None, say), start=1)),
        f"The answer is {example.answer}.",
        "Where students go wrong: they stop at what an earlier step finds, take a fact of another document for the one"
        " that is asked, or give up a right result when they look at it again.",
    ]
    if others:
        parts.append(f"What looks useful and is not: the documents on {_join_words(others)}.")
    return "\n\n".join(parts)


def _steps(example: MultiHopExample, draft: DraftReading | None, say: Phrase) -> list[list[str]]:
    """The sentences of every step: the draft's own where it made the step, else the oracle's."""
    goals = fill_goals(example.evidence)
    kept = draft.kept if draft else (None,) * len(goals)
    return [
        [own] if own else _step_lines(step, goal, example.documents[step.document], say)
        for step, goal, own in zip(example.evidence, goals, kept, strict=True)
    ]


def _step_lines(step: EvidenceStep, goal: str | None, document: Document, say: Phrase) -> list[str]:
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


def _plan_goals(evidence: Sequence[EvidenceStep]) -> list[str]:
    """Goals as they can be planned before anything is found: an earlier finding is only "that"."""

    def name(number: int, match: re.Match[str]) -> str:
        return "that" if int(match[1]) == number else f"what step {match[1]} finds"

    return [
        re.sub(r"#(\d+)", partial(name, number), (step.goal or "").rstrip("?")) for number, step in enumerate(evidence)
    ]


def _starting_titles(example: MultiHopExample) -> list[str]:
    """Titles of the evidence documents that the question itself names; the first step's where it names none."""
    question = normalize_answer(example.question)
    titles = _unique(example.documents[step.document].title for step in example.evidence)
    return [t for t in titles if contains(question, normalize_answer(t))] or titles[:1]


def _self_correction(example: MultiHopExample, draft: DraftReading | None, say: Phrase) -> str:
    """Phase 4: mend the draft's wrong answer, or its loop, or its detour; without one, look for a mix-up."""
    if draft is None:
        return say("calm")
    if draft.answer:
        title = _source_of(draft.answer, example)
        return say("wrong" if title else "wrong_unseen", wrong=draft.answer, title=title)
    if draft.repeated[1] > 2:
        return say("loop")
    return say("wander", title=draft.wandered[0]) if draft.wandered else say("calm")


def _source_of(wrong: str, example: MultiHopExample) -> str | None:
    """The title of a document that mentions the wrong answer, one that no step needs if there is one."""
    needed = {step.document for step in example.evidence}
    places = [
        (index in needed, document.title)
        for index, document in enumerate(example.documents)
        if contains(normalize_answer(f"{document.title} {document.text}"), normalize_answer(wrong))
    ]
    return min(places)[1] if places else None


def _unique(items: Iterable[str]) -> list[str]:
    """The items without repetitions, in their order."""
    return list(dict.fromkeys(items))


def _join_words(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
