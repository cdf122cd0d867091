"""Rejection-sampled distillation: the student learns right rollouts as they are, its own or a teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.protocol import ChatModel, ChatResponse, Sampling, join_reasoning
from introspect.chat.store import ResponseStore
from introspect.evaluation.judging.running import Judging
from introspect.evaluation.rollouts import Rollout
from introspect.synthesis.acceptance import Acceptance
from introspect.synthesis.recipes.base import ask, collect, draft_requests, example_id
from introspect.synthesis.traces import Kind, Trace, TraceSet


class _Distill:
    """Keeps the rollouts on plain questions that end by themselves and whose answer is accepted, as they are."""

    name: str
    kind: Kind = "rollout"
    rollouts_by: Literal["student", "teacher"]

    def __init__(self, rollouts: int, acceptance: Acceptance, sampling: Sampling | None) -> None:
        self.rollouts = rollouts
        self.acceptance = acceptance
        self.sampling = sampling or Sampling()

    @property
    def settings(self) -> Mapping[str, object]:
        """Number of rollouts, and the criterion."""
        return {"rollouts": self.rollouts, **self.acceptance.settings}

    def synthesize(
        self,
        examples: Sequence[MultiHopExample],
        student: ChatModel,
        teacher: ChatModel,
        store: ResponseStore | None = None,
    ) -> TraceSet:
        """One candidate per example and rollout number; only one of the two models is asked for them.

        Rejections: `request_failed`, `unfinished`, `empty` (no think block or no content), those of
        `Acceptance.faults`, `duplicate`.
        """
        by_teacher = self.rollouts_by == "teacher"
        by_id = {example.id: example for example in examples}
        requests = draft_requests(examples, self.rollouts, self.sampling, by_teacher=by_teacher)
        candidates: list[tuple[str | None, Trace]] = []
        sound: list[tuple[Rollout, Trace]] = []
        model = teacher if by_teacher else student
        for request, reply in ask(model, requests, store, f"{self.rollouts_by} rollouts"):
            example = by_id[example_id(request)]
            trace = Trace(
                example_id=example.id,
                rollout_id=request.sample,
                trace_id=0,
                recipe=self.name,
                messages=request.messages,
                target=join_reasoning(reply.reasoning, reply.content) if reply else "",
            )
            if reply is None or (fault := _find_fault(reply)) is not None:
                candidates.append(("request_failed" if reply is None else fault, trace))
            else:
                sound.append((Rollout.of(example, request, reply), trace))
        model.close()  # a judge may need the room
        faults = self.acceptance.faults([rollout for rollout, _ in sound], examples)
        candidates += [(fault, trace) for fault, (_, trace) in zip(faults, sound, strict=True)]
        return collect(candidates)


def _find_fault(reply: ChatResponse) -> str | None:
    if not reply.finished:
        return "unfinished"
    return None if reply.reasoning and reply.content else "empty"


class SelfDistill(_Distill):
    """The student's own right rollouts.

    Args:
        rollouts: drafts per example.
        accept: when an answer is right enough; see `Acceptance`.
        judging: who decides, where `accept` is `judge`.
        student_sampling: how the student is sampled.
    """

    name = "self_distill"
    rollouts_by = "student"

    def __init__(
        self,
        *,
        rollouts: int = 1,
        accept: str = "exact_match",
        judging: Judging | None = None,
        student_sampling: Sampling | None = None,
    ) -> None:
        super().__init__(rollouts, Acceptance(accept, judging), student_sampling)


class TeacherDistill(_Distill):
    """The teacher's right rollouts. It is asked as a student is, without the answer, so its reasoning is the trace.

    Args:
        rollouts: answers per example.
        accept: when an answer is right enough; see `Acceptance`.
        judging: who decides, where `accept` is `judge`.
        teacher_sampling: how the teacher is sampled.
    """

    name = "teacher_distill"
    rollouts_by = "teacher"

    def __init__(
        self,
        *,
        rollouts: int = 1,
        accept: str = "exact_match",
        judging: Judging | None = None,
        teacher_sampling: Sampling | None = None,
    ) -> None:
        super().__init__(rollouts, Acceptance(accept, judging), teacher_sampling)
