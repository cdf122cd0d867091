"""The oracle: a teacher that needs no network and no weights.

It writes reasoning in the five phases from the solution that the benchmark itself annotates, so it works on every
`MultiHopExample`: generated worlds and real HotpotQA, MuSiQue and 2WikiMultiHopQA items alike. Asked to revise a draft
(MBT-R), it reads the draft: it keeps the draft's own words where a step is sound, names the wrong turn or the loop it
finds there, and leads back to the annotated path. It stands in for a large teacher where there is none, and gives an
upper bound on how faithful to the evidence a teacher's traces can be.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from introspect.errors import InputError
from introspect.reasoning.chat import (
    ChatRequest,
    ChatResponse,
    Usage,
    extract_answer,
    join_reasoning,
    split_reasoning,
    tag_answer,
)
from introspect.reasoning.examples import Document, EvidenceStep, MultiHopExample
from introspect.reasoning.metrics.answers import normalize_answer

Phrase = Callable[..., str]

_DRAFT = re.compile(r"<draft_solution>\n?(.*)\n?</draft_solution>", re.DOTALL)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
# A draft's sentence that doubts, plans or concludes is not a step that can be kept.
_NOT_A_STEP = re.compile(r"\?|\b(wait|hmm|maybe|perhaps|not sure|might|could|let me|let's|should)\b", re.IGNORECASE)
# As `normalize_answer` leaves them.
_DENIALS = {"not", "no", "never", "neither", "nor", "cannot", "isnt", "wasnt", "doesnt", "didnt", "arent", "werent"}


@dataclass(frozen=True, slots=True)
class Draft:
    """What the oracle found in a student's draft.

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


class Oracle:
    """A `ChatModel` that answers from `ChatRequest.example`.

    A request that states the correct answer gets a trace as its content: a rewrite if there is a `<draft_solution>`
    (MBT-R), a trace from scratch if not (MBT-S). A plain question gets the trace as reasoning and the tagged answer as
    content, as a reasoning model would reply.
    """

    @property
    def identity(self) -> Mapping[str, str]:
        """The oracle's wording is part of its identity: a changed phrase book never meets a stored answer."""
        return {"model": "oracle", "phrases": hashlib.sha256(repr(PHRASES).encode()).hexdigest()[:16], "version": "2"}

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse]:
        """Answer each request at once.

        Raises:
            InputError: for a request without example.
        """
        for request in requests:
            yield self._answer(request)

    def _answer(self, request: ChatRequest) -> ChatResponse:
        example = request.example
        if example is None:
            raise InputError(f"teacher=oracle: request {request.id} is about no benchmark item; take another teacher=")
        prompt = request.messages[-1].content
        if not example.evidence:
            # Nothing to say about an item whose annotation is unusable: an empty reply, which recipes reject and count.
            return ChatResponse(request.id, "", "", "stop", Usage(len(prompt.split()), 0, 0))
        draft = _DRAFT.search(prompt)
        rng = random.Random(f"{request.sampling.seed}/{request.sample}/{example.id}")
        trace = write_trace(example, rng, read_draft(draft[1], example) if draft else None)
        given = "<correct_answer>" in prompt
        reasoning, content = ("", trace) if given else (trace, tag_answer(example.answer))
        words = len(join_reasoning(reasoning, content).split())
        usage = Usage(len(prompt.split()), words, len(reasoning.split()))
        return ChatResponse(request.id, reasoning, content, "stop", usage)


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


def write_trace(example: MultiHopExample, rng: random.Random, draft: Draft | None = None) -> str:
    """The five phases as paragraphs; with a draft, its sound steps are kept and its wrong turn is mended."""

    def say(phrase: str, **values: object) -> str:
        return rng.choice(PHRASES[phrase]).format(**values)

    goals = _goals(example.evidence)
    titles = _starting_titles(example)
    paragraphs = [
        say("ask", question=_sentence(example.question, "?"))
        + " "
        + say("filter" if len(titles) == 1 else "filter_many", titles=_join(titles)),
        say("plan", goals=", then ".join(_planned(example.evidence)))
        if all(goals)
        else say("plan_read", titles=_join(_unique(example.documents[s.document].title for s in example.evidence))),
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


def read_draft(draft: str, example: MultiHopExample) -> Draft:
    """Compare a student's draft with the annotated evidence, by normalised words."""
    text = split_reasoning(draft)
    answer = extract_answer(text.content or draft)
    sentences = [sentence.strip() for sentence in _SENTENCE.split(text.reasoning + "\n" + text.content)]
    plain = [normalize_answer(sentence) for sentence in sentences]
    usable = [bool(s) and len(s) < 400 and not _NOT_A_STEP.search(s) and "<" not in s for s in sentences]
    goals = _goals(example.evidence)
    kept: list[str | None] = []
    counts: list[int] = []
    for step, goal in zip(example.evidence, goals, strict=True):
        makes = [_makes_step(words, step, goal, example.documents[step.document], example.question) for words in plain]
        kept.append(
            next((_sentence(s) for s, ok, made in zip(sentences, usable, makes, strict=True) if ok and made), None)
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
    return Draft(
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


def _self_correction(example: MultiHopExample, draft: Draft | None, say: Phrase) -> str:
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
    needle = f" {normalize_answer(wrong)} "
    needed = {step.document for step in example.evidence}
    places = [
        (index in needed, document.title)
        for index, document in enumerate(example.documents)
        if needle in f" {normalize_answer(document.title + ' ' + document.text)} "
    ]
    return min(places)[1] if places else None


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


def _goals(evidence: Sequence[EvidenceStep]) -> list[str | None]:
    """Each step's goal with `#k` replaced by what step k found."""

    def fill(match: re.Match[str]) -> str:
        earlier = int(match[1]) - 1
        return (evidence[earlier].finding if 0 <= earlier < len(evidence) else None) or match[0]

    return [re.sub(r"#(\d+)", fill, step.goal) if step.goal else None for step in evidence]


def _planned(evidence: Sequence[EvidenceStep]) -> list[str]:
    """Goals as they can be planned before anything is found: an earlier finding is only "that"."""

    def name(number: int, match: re.Match[str]) -> str:
        return "that" if int(match[1]) == number else f"what step {match[1]} finds"

    return [
        re.sub(r"#(\d+)", partial(name, number), (step.goal or "").rstrip("?")) for number, step in enumerate(evidence)
    ]


def _starting_titles(example: MultiHopExample) -> list[str]:
    """Titles of the evidence documents that the question itself names; the first step's where it names none."""
    question = f" {normalize_answer(example.question)} "
    titles = _unique(example.documents[step.document].title for step in example.evidence)
    return [t for t in titles if f" {normalize_answer(t)} " in question] or titles[:1]


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _join(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def _sentence(text: str, mark: str = ".") -> str:
    text = text.strip()
    return text if text[-1:] in ".!?\"'”" else text + mark
