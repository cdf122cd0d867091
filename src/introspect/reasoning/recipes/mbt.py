"""Metacognitive Behavioral Tuning: traces in five phases, by a teacher (arXiv 2602.22508, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from introspect.reasoning.chat import (
    ChatModel,
    ChatRequest,
    ChatResponse,
    Message,
    Sampling,
    join_reasoning,
    tag_answer,
)
from introspect.reasoning.examples import MultiHopExample
from introspect.reasoning.prompts import question_messages, render
from introspect.reasoning.recipes.base import ask, collect, draft_requests, find_fault
from introspect.reasoning.store import ResponseStore
from introspect.reasoning.traces import Trace, TraceSet


class MBTS:
    """MBT-S: the teacher, who knows the gold answer, writes the trace from scratch.

    Args:
        traces: traces per example.
        teacher_sampling: how the teacher is sampled.
    """

    name = "mbt_s"

    def __init__(self, *, traces: int = 1, teacher_sampling: Sampling | None = None) -> None:
        self.traces = traces
        self.teacher_sampling = teacher_sampling or Sampling()

    def synthesize(
        self,
        examples: Sequence[MultiHopExample],
        student: ChatModel,
        teacher: ChatModel,
        store: ResponseStore | None = None,
    ) -> TraceSet:
        """One candidate per example and trace number; the student is not asked."""
        origins: dict[str, tuple[MultiHopExample, int, int]] = {}
        requests = []
        for example in examples:
            prompt = render("mbt_s", context=example.context, question=example.question, answer=example.answer)
            for number in range(self.traces):
                key = f"{example.id}/0/{number}"
                origins[key] = (example, 0, number)
                requests.append(_teacher_request(key, prompt, self.teacher_sampling, number, example))
        replies = ask(teacher, requests, store, "teacher writes traces")
        return collect([_candidate(self.name, *origins[request.id], reply) for request, reply in replies])


class MBTR:
    """MBT-R: the student drafts, the teacher rewrites the draft. Right and wrong drafts are rewritten alike.

    Args:
        rollouts: drafts per example.
        traces: rewrites per draft.
        unfinished_drafts: also rewrite drafts that hit the length limit. The reference drops them, and so does the
            default; they are then counted as `draft_unfinished`, once for each rewrite that they would have had.
        student_sampling, teacher_sampling: how the two are sampled.
    """

    name = "mbt_r"

    def __init__(
        self,
        *,
        rollouts: int = 1,
        traces: int = 1,
        unfinished_drafts: bool = False,
        student_sampling: Sampling | None = None,
        teacher_sampling: Sampling | None = None,
    ) -> None:
        self.rollouts = rollouts
        self.traces = traces
        self.unfinished_drafts = unfinished_drafts
        self.student_sampling = student_sampling or Sampling()
        self.teacher_sampling = teacher_sampling or Sampling()

    def synthesize(
        self,
        examples: Sequence[MultiHopExample],
        student: ChatModel,
        teacher: ChatModel,
        store: ResponseStore | None = None,
    ) -> TraceSet:
        """One candidate per example, rollout number and trace number, joined on their ids."""
        by_id = {example.id: example for example in examples}
        drafts = draft_requests(examples, self.rollouts, self.student_sampling)
        origins: dict[str, tuple[MultiHopExample, int, int]] = {}
        requests: list[ChatRequest] = []
        candidates: list[tuple[str | None, Trace]] = []
        for request, draft in ask(student, drafts, store, "student drafts"):
            example = by_id[request.id.rpartition("/")[0]]
            fault = self._draft_fault(draft)
            prompt = "" if fault else _rewrite_prompt(example, draft)
            for number in range(self.traces):
                if fault:
                    candidates.append((fault, _trace(self.name, example, request.sample, number, "")))
                    continue
                key = f"{request.id}/{number}"
                origins[key] = (example, request.sample, number)
                requests.append(_teacher_request(key, prompt, self.teacher_sampling, number, example))
        replies = ask(teacher, requests, store, "teacher rewrites drafts")
        candidates += [_candidate(self.name, *origins[request.id], reply) for request, reply in replies]
        return collect(candidates)

    def _draft_fault(self, draft: ChatResponse) -> str | None:
        if not draft.finished and not self.unfinished_drafts:
            return "draft_unfinished"
        return None if draft.reasoning or draft.content else "draft_empty"


def _rewrite_prompt(example: MultiHopExample, draft: ChatResponse) -> str:
    text = "\n\n".join(part for part in (draft.reasoning, draft.content) if part)
    return render(
        "mbt_r", context=example.context, question=example.question, answer=example.answer, draft_solution=text
    )


def _teacher_request(key: str, prompt: str, sampling: Sampling, sample: int, example: MultiHopExample) -> ChatRequest:
    return ChatRequest(key, (Message("user", prompt),), sampling, sample=sample, example=example)


def _candidate(
    recipe: str, example: MultiHopExample, rollout: int, number: int, reply: ChatResponse
) -> tuple[str | None, Trace]:
    return find_fault(reply, example), _trace(recipe, example, rollout, number, reply.content.strip())


def _trace(recipe: str, example: MultiHopExample, rollout: int, number: int, reasoning: str) -> Trace:
    """The student is tuned on the plain question, the trace as its think block, and the benchmark's own answer."""
    return Trace(
        example_id=example.id,
        rollout_id=rollout,
        trace_id=number,
        recipe=recipe,
        messages=question_messages(example),
        target=join_reasoning(reasoning, tag_answer(example.answer)),
    )
