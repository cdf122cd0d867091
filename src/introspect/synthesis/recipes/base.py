"""What every recipe shares: the protocol, how models are asked, and the gate that a trace must pass."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from introspect.benchmarks.answers import normalize_answer
from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import question_messages
from introspect.chat.protocol import (
    ANSWER_OPEN,
    THINK_CLOSE,
    THINK_OPEN,
    ChatModel,
    ChatRequest,
    ChatResponse,
    Sampling,
    join_reasoning,
    tag_answer,
)
from introspect.chat.store import ResponseStore, answer
from introspect.core.progress import track
from introspect.synthesis.traces import Draft, Trace, TraceSet

# A trace that speaks of what only its writer was given teaches the student to expect it.
_LEAK = re.compile(
    r"\b(?:(?:provided|given|gold|reference|expected|known|supplied|target) (?:final |correct )?answer"
    r"|(?:provided|given|known|supplied) (?:as )?(?:the )?correct answer"
    r"|correct answer (?:that )?(?:was|is|we were|being) (?:given|provided|told|supplied|known)"
    r"|ground[- ]truth|answer key|the hint\b|(?:the|this|your) (?:prompt|instructions?)"
    r"|answer we (?:already )?(?:have|know|were given|were told)"
    r"|(?:original|previous|earlier|initial) (?:solution|attempt|response|answer|reasoning)"
    r"|(?:answer|solution) (?:(?:that )?(?:was|is|we were) )?(?:given|provided)"
    r"|(?:the|this|that|our|student's|student’s) draft(?: solution)?"
    r"|the student(?:'s|’s)? (?:reasoning|answer|attempt|solution)"
    r"|(?:solution|reference) guide|the guide (?:says|tells|warns|lists)"
    r"|correct_answer|draft_solution)\b",
    re.IGNORECASE,
)
# As `normalize_answer` leaves them.
_ASSERTS = frozenset("is are was were isnt be answer but instead rather".split())
_DENIES = frozenset("not never isnt wasnt neither nor".split())


class Recipe(Protocol):
    """Turns examples into traces with the help of a student and, for most recipes, a teacher.

    `kind` says what its traces are; without it they can not be exported.

    One that has nothing to train on says so with `trains = False`, and one that reads no questions, because it has its
    traces from elsewhere, with `asks = False`.
    """

    name: str

    @property
    def settings(self) -> Mapping[str, object]:
        """What decides which candidates become traces, to be recorded with them: plain values by name."""
        ...

    def synthesize(
        self,
        examples: Sequence[MultiHopExample],
        student: ChatModel,
        teacher: ChatModel,
        store: ResponseStore | None = None,
    ) -> TraceSet:
        """Every candidate trace ends either in the result's `traces` or in the count of its `rejections`."""
        ...


def draft_requests(
    examples: Sequence[MultiHopExample], rollouts: int, sampling: Sampling, *, by_teacher: bool = False
) -> list[ChatRequest]:
    """`rollouts` plain questions per example, with ids `<example>/<rollout>`.

    Those to a teacher carry the example: the oracle is a teacher, and answers from it.
    """
    return [
        ChatRequest(
            f"{example.id}/{rollout}",
            question_messages(example),
            sampling,
            sample=rollout,
            example=example if by_teacher else None,
        )
        for example in examples
        for rollout in range(rollouts)
    ]


def example_id(request: ChatRequest) -> str:
    """The example that a request `<example>/<rollout>` is about."""
    return request.id.rpartition("/")[0]


def ask(
    model: ChatModel, requests: Sequence[ChatRequest], store: ResponseStore | None, what: str
) -> Iterator[tuple[ChatRequest, ChatResponse | None]]:
    """Every request once, with its answer as that comes, through the store and with a progress bar.

    The requests that failed for good come last, with None; a recipe counts them as `request_failed`.
    """
    unanswered = {request.id: request for request in requests}
    for request, response in track(answer(model, requests, store), description=what, total=len(requests)):
        del unanswered[request.id]
        yield request, response
    yield from ((request, None) for request in unanswered.values())


def find_fault(response: ChatResponse | None, example: MultiHopExample) -> str | None:
    """Why a teacher's reply can not be a trace of this example, or None if it can.

    request_failed: there is no reply. truncated: it did not end by itself. The others are those of `find_text_fault`;
    a teacher's private reasoning never counts as text.
    """
    if response is None:
        return "request_failed"
    if not response.finished:
        return "truncated"
    return find_text_fault(response.content, f"{example.question}\n{example.context}", example.references)


def find_text_fault(trace: str, source: str, references: Sequence[str]) -> str | None:
    """Why a text can not be a trace, or None if it can.

    empty: there is none. tags: it contains think or answer tags, which would break the target's form. leak: it
    mentions that an answer, a draft or a guide was given, in words that the source (question and documents) does not
    use. answer_missing: it does not conclude with one of the accepted answers.
    """
    trace = trace.strip()
    if not trace:
        return "empty"
    if any(tag in trace for tag in (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN)):
        return "tags"
    if any(match[0].lower() not in source.lower() for match in _LEAK.finditer(trace)):
        return "leak"
    return None if any(_ends_in(trace, reference) for reference in references) else "answer_missing"


def _ends_in(trace: str, reference: str) -> bool:
    """Whether a trace concludes with the reference: it stands in the last paragraph, undenied, and little follows it.

    Words may follow ("… is London, in England."), but nothing that says what something is.
    """
    wanted = normalize_answer(reference)
    if not wanted:  # "A", "The The", "!!!": normalised, nothing is left of it
        return trace.rstrip(" .*").endswith(reference.strip(" ."))
    ending = normalize_answer(re.split(r"\n\s*\n", trace)[-1])
    before, found, after = f" {ending} ".rpartition(f" {wanted} ")
    following = after.split()
    return bool(found) and len(following) <= 6 and not _ASSERTS & {*following} and not _DENIES & {*before.split()[-2:]}


def trace_of(
    recipe: str,
    example: MultiHopExample,
    text: str,
    *,
    rollout_id: int = 0,
    trace_id: int = 0,
    draft: Draft | None = None,
) -> Trace:
    """A teacher's text as the student shall learn it: the plain question, the text as think block, the gold answer."""
    return Trace(
        example_id=example.id,
        rollout_id=rollout_id,
        trace_id=trace_id,
        recipe=recipe,
        messages=question_messages(example),
        target=join_reasoning(text.strip(), tag_answer(example.answer)),
        draft=draft,
    )


def collect(candidates: Sequence[tuple[str | None, Trace]]) -> TraceSet:
    """Gate the candidates (fault or None, trace): the accepted in order of their ids, the rejected counted by fault.

    The same target twice for one example is a `duplicate`.
    """
    rejections: Counter[str] = Counter()
    accepted: list[Trace] = []
    seen: set[tuple[str, str]] = set()
    for fault, trace in sorted(candidates, key=lambda c: (c[1].example_id, c[1].rollout_id, c[1].trace_id)):
        if fault is None and (trace.example_id, trace.target) in seen:
            fault = "duplicate"
        if fault is None:
            seen.add((trace.example_id, trace.target))
            accepted.append(trace)
        else:
            rejections[fault] += 1
    return TraceSet(tuple(accepted), dict(rejections))
