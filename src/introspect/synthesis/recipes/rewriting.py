"""The recipes in which a teacher rewrites drafts: MBT-R and its two controls (arXiv 2602.22508, section 3).

| recipe | whose drafts | how they are rewritten |
|---|---|---|
| `mbt_r` | the student's | in the five phases |
| `direct_r` | the teacher's own | in the five phases |
| `distill_r` | the student's | plainly, without the phases |

Right and wrong drafts are rewritten alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import render
from introspect.chat.protocol import ChatModel, ChatRequest, ChatResponse, Message, Sampling
from introspect.chat.store import ResponseStore
from introspect.synthesis.recipes.base import ask, collect, draft_requests, example_id, find_fault, trace_of
from introspect.synthesis.traces import Draft, Kind, Trace, TraceSet


@dataclass(frozen=True, slots=True)
class _Drafted:
    """What came of one request for a draft."""

    example: MultiHopExample
    rollout: int
    reply: ChatResponse | None
    fault: str | None


@dataclass(frozen=True, slots=True)
class _Guide:
    """What came of one request for a guide: the two turns that open the rewriting, or why there are none."""

    turns: tuple[Message, ...]
    fault: str | None


_NO_GUIDE = _Guide((), None)


class Guides(Protocol):
    """Guides that are there already."""

    def turns(self, examples: Sequence[MultiHopExample]) -> Mapping[str, tuple[Message, ...]]:
        """By example id, the turns that ask for a guide and give it; examples without a guide are not there."""
        ...


class _Rewriting:
    """Drafts, then guides if wanted, then rewrites; everything is joined on ids."""

    name: str
    kind: Kind = "rewrite"
    drafts_by: Literal["student", "teacher"] = "student"
    prompt = "mbt_r"

    def __init__(
        self,
        *,
        rollouts: int = 1,
        traces: int = 1,
        guides: bool | Guides = True,
        unfinished_drafts: bool = False,
        student_sampling: Sampling | None = None,
        teacher_sampling: Sampling | None = None,
    ) -> None:
        self.rollouts = rollouts
        self.traces = traces
        self.guides = guides
        self.unfinished_drafts = unfinished_drafts
        self.student_sampling = student_sampling or Sampling()
        self.teacher_sampling = teacher_sampling or Sampling()

    @property
    def settings(self) -> Mapping[str, object]:
        """Numbers of rollouts and traces, guides, and what is done about unfinished drafts."""
        guides = self.guides if isinstance(self.guides, bool) else str(self.guides)
        kept = {name: getattr(self, name) for name in ("rollouts", "traces", "unfinished_drafts")}
        return {**kept, "guides": guides}

    def synthesize(
        self,
        examples: Sequence[MultiHopExample],
        student: ChatModel,
        teacher: ChatModel,
        store: ResponseStore | None = None,
    ) -> TraceSet:
        """One candidate per example, rollout number and trace number.

        Rejections besides those of `base.find_fault`: `draft_unfinished`, `draft_empty`, `guide_unfinished`,
        `guide_empty` and, of published guides, `guide_missing`; each is counted once for every rewrite that there would
        have been.
        """
        drafts = list(self._draft(examples, teacher if self.drafts_by == "teacher" else student, store))
        if self.drafts_by == "student":
            student.close()
        wanted = {draft.example.id: draft.example for draft in drafts if draft.fault is None}
        guides = self._guide(list(wanted.values()), teacher, store)
        origins: dict[str, _Drafted] = {}
        requests: list[ChatRequest] = []
        candidates: list[tuple[str | None, Trace]] = []
        for draft in drafts:
            guide = guides.get(draft.example.id, _NO_GUIDE)
            fault = draft.fault or guide.fault
            for number in range(self.traces):
                if fault:
                    candidates.append((fault, self._trace(draft, "", number)))
                    continue
                key = f"{draft.example.id}/{draft.rollout}/{number}"
                origins[key] = draft
                requests.append(self._request(key, draft, guide, number))
        for request, reply in ask(teacher, requests, store, "teacher rewrites drafts"):
            draft = origins[request.id]
            text = reply.content if reply else ""
            candidates.append((find_fault(reply, draft.example), self._trace(draft, text, request.sample)))
        return collect(candidates)

    def _draft(
        self, examples: Sequence[MultiHopExample], drafter: ChatModel, store: ResponseStore | None
    ) -> Iterator[_Drafted]:
        by_id = {example.id: example for example in examples}
        by_teacher = self.drafts_by == "teacher"
        sampling = self.teacher_sampling if by_teacher else self.student_sampling
        requests = draft_requests(examples, self.rollouts, sampling, by_teacher=by_teacher)
        for request, reply in ask(drafter, requests, store, f"{self.drafts_by} drafts"):
            yield _Drafted(by_id[example_id(request)], request.sample, reply, self._draft_fault(reply))

    def _draft_fault(self, reply: ChatResponse | None) -> str | None:
        if reply is None:
            return "request_failed"
        if not reply.finished and not self.unfinished_drafts:
            return "draft_unfinished"
        return None if reply.reasoning or reply.content else "draft_empty"

    def _guide(
        self, examples: Sequence[MultiHopExample], teacher: ChatModel, store: ResponseStore | None
    ) -> dict[str, _Guide]:
        """By example id, the guide of each example that shall have one."""
        if self.guides is True:
            return dict(self._write_guides(examples, teacher, store))
        if self.guides is False:
            return {}
        found = self.guides.turns(examples)
        return {example.id: _found_guide(found.get(example.id, ())) for example in examples}

    def _write_guides(
        self, examples: Sequence[MultiHopExample], teacher: ChatModel, store: ResponseStore | None
    ) -> Iterator[tuple[str, _Guide]]:
        requests = [
            ChatRequest(f"{example.id}/guide", guide_messages(example), self.teacher_sampling, example=example)
            for example in examples
        ]
        for request, reply in ask(teacher, requests, store, "teacher writes guides"):
            turns = (*request.messages, Message("assistant", reply.content.strip())) if reply else ()
            yield example_id(request), _Guide(turns, _guide_fault(reply))

    def _request(self, key: str, draft: _Drafted, guide: _Guide, number: int) -> ChatRequest:
        assert draft.reply is not None
        example = draft.example
        parts = (draft.reply.reasoning, draft.reply.content)
        prompt = render(
            "synthesis",
            self.prompt,
            context=example.context,
            question=example.question,
            answer=example.answer,
            draft_solution="\n\n".join(part for part in parts if part),
            guided=bool(guide.turns),
        )
        messages = (*guide.turns, Message("user", prompt))
        return ChatRequest(key, messages, self.teacher_sampling, sample=number, example=example)

    def _trace(self, draft: _Drafted, text: str, number: int) -> Trace:
        reply = draft.reply
        origin = Draft(reply.reasoning, reply.content, reply.finished) if reply else None
        return trace_of(self.name, draft.example, text, rollout_id=draft.rollout, trace_id=number, draft=origin)


def guide_messages(example: MultiHopExample) -> tuple[Message, ...]:
    """What asks the teacher, who is given the answer, for a guide to the solution of an example."""
    prompt = render(
        "synthesis", "solution_guide", context=example.context, question=example.question, answer=example.answer
    )
    return (Message("user", prompt),)


def _found_guide(turns: tuple[Message, ...]) -> _Guide:
    if not turns:
        return _Guide((), "guide_missing")
    return _Guide(turns, None if turns[-1].content.strip() else "guide_empty")


def _guide_fault(reply: ChatResponse | None) -> str | None:
    if reply is None:
        return "request_failed"
    if not reply.finished:
        return "guide_unfinished"
    return None if reply.content.strip() else "guide_empty"


class MBTR(_Rewriting):
    """MBT-R: the student drafts, the teacher rewrites the draft in the five phases.

    Args:
        rollouts: drafts per example.
        traces: rewrites per draft.
        guides: the teacher first writes a guide to the solution, once per example, and rewrites with that before it,
            as in the paper. False saves the request and gives it the bare answer; `PublishedGuides` takes guides that
            others have written.
        unfinished_drafts: also rewrite drafts that hit the length limit. The reference drops them, and so does the
            default; they are then counted as `draft_unfinished`.
        student_sampling, teacher_sampling: how the two are sampled.
    """

    name = "mbt_r"


class DistillR(_Rewriting):
    """Distill-R, the matched control: all as in MBT-R, but the rewrite is a plain text without the five phases.

    The paper's prompt is not published; `distill_r.jinja` is ours. The arguments are those of `MBTR`.
    """

    name = "distill_r"
    prompt = "distill_r"


class DirectR(_Rewriting):
    """Direct-R, the other control: the teacher rewrites its own answers to the plain questions in the five phases.

    Args:
        rollouts: the teacher's answers per example.
        traces: rewrites per answer.
        guides, unfinished_drafts: as of `MBTR`.
        teacher_sampling: how the teacher is sampled.
    """

    name = "direct_r"
    drafts_by = "teacher"

    def __init__(
        self,
        *,
        rollouts: int = 1,
        traces: int = 1,
        guides: bool | Guides = True,
        unfinished_drafts: bool = False,
        teacher_sampling: Sampling | None = None,
    ) -> None:
        super().__init__(
            rollouts=rollouts,
            traces=traces,
            guides=guides,
            unfinished_drafts=unfinished_drafts,
            teacher_sampling=teacher_sampling,
        )
