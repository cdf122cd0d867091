"""Rejection-sampled self-distillation: the student learns from its own rollouts that were right."""

from __future__ import annotations

from collections.abc import Sequence

from introspect.reasoning.chat import ChatModel, ChatResponse, Sampling, extract_answer, join_reasoning
from introspect.reasoning.examples import MultiHopExample
from introspect.reasoning.metrics.answers import exact_match
from introspect.reasoning.recipes.base import ask, collect, draft_requests
from introspect.reasoning.store import ResponseStore
from introspect.reasoning.traces import Trace, TraceSet


class SelfDistill:
    """Keeps the student's rollouts that end by themselves and whose answer matches exactly, as they are.

    Args:
        rollouts: drafts per example.
        student_sampling: how the student is sampled.
    """

    name = "self_distill"

    def __init__(self, *, rollouts: int = 1, student_sampling: Sampling | None = None) -> None:
        self.rollouts = rollouts
        self.student_sampling = student_sampling or Sampling()

    def synthesize(
        self,
        examples: Sequence[MultiHopExample],
        student: ChatModel,
        teacher: ChatModel,
        store: ResponseStore | None = None,
    ) -> TraceSet:
        """One candidate per example and rollout number; the teacher is not asked.

        Rejections: `unfinished`, `empty` (no think block or no content), `wrong`, `duplicate`.
        """
        by_id = {example.id: example for example in examples}
        requests = draft_requests(examples, self.rollouts, self.student_sampling)
        candidates = []
        for request, reply in ask(student, requests, store, "student rollouts"):
            example = by_id[request.id.rpartition("/")[0]]
            trace = Trace(
                example_id=example.id,
                rollout_id=request.sample,
                trace_id=0,
                recipe=self.name,
                messages=request.messages,
                target=join_reasoning(reply.reasoning, reply.content),
            )
            candidates.append((_find_fault(reply, example), trace))
        return collect(candidates)


def _find_fault(reply: ChatResponse, example: MultiHopExample) -> str | None:
    if not reply.finished:
        return "unfinished"
    if not reply.reasoning or not reply.content:
        return "empty"
    return None if exact_match(extract_answer(reply.content), example.references) else "wrong"
