"""Rejection-sampled distillation: the student learns correct rollouts unchanged, its own or a teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.protocol import Sampling, join_reasoning
from introspect.evaluation.judging.running import Judging
from introspect.evaluation.rollouts import Rollout
from introspect.synthesis.acceptance import Acceptance, collect, find_rollout_fault
from introspect.synthesis.recipes.base import Models, Recipe, Role, draft_requests, example_id
from introspect.synthesis.traces import Kind, Trace, TraceSet


@dataclass(frozen=True, kw_only=True)
class _Distill(Recipe):
    """Keeps the rollouts that end by themselves and whose answer is accepted."""

    kind: ClassVar[Kind] = "rollout"
    role: ClassVar[Role]

    rollouts: int = 1
    accept: str = "exact_match"
    judging: Judging | None = None

    def __post_init__(self) -> None:
        """Check the criterion.

        Raises:
            InputError: see `Acceptance`.
        """
        _ = self._acceptance

    @property
    def _acceptance(self) -> Acceptance:
        return Acceptance(self.accept, self.judging)

    @property
    def _sampling(self) -> Sampling:
        raise NotImplementedError

    @property
    def settings(self) -> Mapping[str, object]:
        """Number of rollouts, and the criterion."""
        return {"rollouts": self.rollouts, **self._acceptance.settings}

    def synthesize(self, examples: Sequence[MultiHopExample], models: Models) -> TraceSet:
        """Make one candidate per example and rollout number, with one of the two models.

        Rejections: `request_failed`, `unfinished`, `empty` (no think block or no content), those of
        `Acceptance.faults`, `duplicate`.
        """
        by_id = {example.id: example for example in examples}
        requests = draft_requests(examples, self.rollouts, self._sampling, self.role)
        candidates: list[tuple[str | None, Trace]] = []
        sound: list[tuple[Rollout, Trace]] = []
        for request, reply in models.generate(self.role, requests, f"{self.role} rollouts"):
            example = by_id[example_id(request)]
            trace = Trace(
                example_id=example.id,
                rollout_id=request.sample,
                trace_id=0,
                recipe=self.name,
                messages=request.messages,
                target=join_reasoning(reply.reasoning, reply.content) if reply else "",
            )
            if reply is None or (fault := find_rollout_fault(reply)) is not None:
                candidates.append(("request_failed" if reply is None else fault, trace))
            else:
                sound.append((Rollout.of(example, request, reply), trace))
        models.model(self.role).close()  # a judge may need the memory
        faults = self._acceptance.faults([rollout for rollout, _ in sound], examples)
        candidates += [(fault, trace) for fault, (_, trace) in zip(faults, sound, strict=True)]
        return collect(candidates)


@dataclass(frozen=True, kw_only=True)
class SelfDistill(_Distill):
    """The student's own correct rollouts.

    Attributes:
        rollouts: rollouts per example.
        accept: which answers count as correct; see `Acceptance`.
        judging: the judge, where `accept` is `judge`.
        student_sampling: how rollouts are sampled.
    """

    name: ClassVar[str] = "self_distill"
    role: ClassVar[Role] = "student"

    student_sampling: Sampling = field(default_factory=Sampling)

    @property
    def _sampling(self) -> Sampling:
        return self.student_sampling


@dataclass(frozen=True, kw_only=True)
class TeacherDistill(_Distill):
    """The teacher's correct rollouts. It is given the question without the answer, so its reasoning is the trace.

    Attributes:
        rollouts: answers per example.
        accept: which answers count as correct; see `Acceptance`.
        judging: the judge, where `accept` is `judge`.
        teacher_sampling: how answers are sampled.
    """

    name: ClassVar[str] = "teacher_distill"
    role: ClassVar[Role] = "teacher"

    teacher_sampling: Sampling = field(default_factory=Sampling)

    @property
    def _sampling(self) -> Sampling:
        return self.teacher_sampling
