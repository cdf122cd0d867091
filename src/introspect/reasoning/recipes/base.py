"""What every recipe shares: the protocol, student drafts, and the gate that a trace must pass."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from introspect.progress import track
from introspect.reasoning.chat import (
    ANSWER_OPEN,
    THINK_CLOSE,
    THINK_OPEN,
    ChatModel,
    ChatRequest,
    ChatResponse,
    Sampling,
)
from introspect.reasoning.examples import MultiHopExample
from introspect.reasoning.metrics.answers import normalize_answer
from introspect.reasoning.prompts import question_messages
from introspect.reasoning.store import ResponseStore, answer
from introspect.reasoning.traces import Trace, TraceSet

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
    r"|correct_answer|draft_solution)\b",
    re.IGNORECASE,
)
# As `normalize_answer` leaves them.
_ASSERTS = frozenset("is are was were isnt be answer but instead rather".split())
_DENIES = frozenset("not never isnt wasnt neither nor".split())


class Recipe(Protocol):
    """Turns examples into traces with the help of a student and, for most recipes, a teacher."""

    name: str

    def synthesize(
        self,
        examples: Sequence[MultiHopExample],
        student: ChatModel,
        teacher: ChatModel,
        store: ResponseStore | None = None,
    ) -> TraceSet:
        """Every candidate trace ends either in the result's `traces` or in the count of its `rejections`."""
        ...


def draft_requests(examples: Sequence[MultiHopExample], rollouts: int, sampling: Sampling) -> list[ChatRequest]:
    """`rollouts` plain questions per example, with ids `<example>/<rollout>`."""
    return [
        ChatRequest(f"{example.id}/{rollout}", question_messages(example), sampling, sample=rollout)
        for example in examples
        for rollout in range(rollouts)
    ]


def ask(
    model: ChatModel, requests: Sequence[ChatRequest], store: ResponseStore | None, what: str
) -> Iterator[tuple[ChatRequest, ChatResponse]]:
    """Answers to all requests, through the store, with a progress bar."""
    return track(answer(model, requests, store), description=what, total=len(requests))


def find_fault(response: ChatResponse, example: MultiHopExample) -> str | None:
    """Why a teacher's reply can not be a trace of this example, or None if it can.

    truncated: the reply did not end by itself. empty: it has no visible text (a teacher's private reasoning never
    counts). tags: it contains think or answer tags, which would break the target's form. leak: it mentions that an
    answer or a draft was given, in words that the question and the documents do not use. answer_missing: it does
    not conclude with the gold answer or an alias.
    """
    if not response.finished:
        return "truncated"
    trace = response.content.strip()
    if not trace:
        return "empty"
    if any(tag in trace for tag in (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN)):
        return "tags"
    source = f"{example.question}\n{example.context}".lower()
    if any(match[0].lower() not in source for match in _LEAK.finditer(trace)):
        return "leak"
    return None if any(_ends_in(trace, reference) for reference in example.references) else "answer_missing"


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
