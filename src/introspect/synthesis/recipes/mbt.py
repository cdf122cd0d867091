"""The recipes in which a teacher writes traces: MBT-S, MBT-R and its two controls (arXiv 2602.22508, section 3).

| recipe | what the teacher is given | what it writes |
|---|---|---|
| `mbt_s` | the question and its answer | a trace in the five phases |
| `mbt_r` | a draft of the student | the draft rewritten in the five phases |
| `direct_r` | a draft of its own | the draft rewritten in the five phases |
| `distill_r` | a draft of the student | the draft rewritten without the phases |

Correct and wrong drafts are rewritten alike. Requests and responses are joined on ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import render
from introspect.chat.protocol import ChatRequest, ChatResponse, Message, Sampling
from introspect.synthesis.acceptance import collect, find_draft_fault, find_fault, find_guide_fault
from introspect.synthesis.recipes.base import Models, Recipe, Role, draft_requests, example_id, trace_of
from introspect.synthesis.traces import Draft, Kind, Trace, TraceSet


@dataclass(frozen=True, kw_only=True)
class MBTS(Recipe):
    """MBT-S: the teacher, which is given the reference answer, writes the trace from scratch.

    Attributes:
        traces: traces per example.
        teacher_sampling: how they are sampled.
    """

    name: ClassVar[str] = "mbt_s"
    kind: ClassVar[Kind] = "synthesis"

    traces: int = 1
    teacher_sampling: Sampling = field(default_factory=Sampling)

    @property
    def settings(self) -> Mapping[str, object]:
        """Number of traces."""
        return {"traces": self.traces}

    def synthesize(self, examples: Sequence[MultiHopExample], models: Models) -> TraceSet:
        """Make one candidate per example and trace number, with the teacher alone."""
        by_id = {example.id: example for example in examples}
        requests = [
            ChatRequest(f"{example.id}/{number}", prompt, self.teacher_sampling, sample=number, example=example)
            for example in examples
            for prompt in [_given_answer("mbt_s", example)]
            for number in range(self.traces)
        ]
        candidates = []
        for request, reply in models.generate("teacher", requests, "teacher writes traces"):
            example = by_id[example_id(request)]
            text = reply.content if reply else ""
            candidates.append((find_fault(reply, example), trace_of(self.name, example, text, trace_id=request.sample)))
        return collect(candidates)


@dataclass(frozen=True, slots=True)
class _Drafted:
    """The result of one request for a draft."""

    example: MultiHopExample
    rollout: int
    reply: ChatResponse | None
    fault: str | None


@dataclass(frozen=True, slots=True)
class _Guide:
    """The result of one request for a guide: the two turns that open the rewriting, or why there are none."""

    turns: tuple[Message, ...]
    fault: str | None


_NO_GUIDE = _Guide((), None)


class Guides(Protocol):
    """Guides that exist already."""

    def turns(self, examples: Sequence[MultiHopExample]) -> Mapping[str, tuple[Message, ...]]:
        """Return the turns that request a guide and give it, by example id; examples without a guide are left out."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Rewriting(Recipe):
    """Drafts, then guides if wanted, then rewrites."""

    kind: ClassVar[Kind] = "rewrite"
    drafter: ClassVar[Role] = "student"
    prompt: ClassVar[str] = "mbt_r"

    rollouts: int = 1
    traces: int = 1
    guides: bool | Guides = True
    unfinished_drafts: bool = False
    teacher_sampling: Sampling = field(default_factory=Sampling)

    @property
    def settings(self) -> Mapping[str, object]:
        """Numbers of rollouts and traces, guides, and what happens to unfinished drafts."""
        return {
            "rollouts": self.rollouts,
            "traces": self.traces,
            "unfinished_drafts": self.unfinished_drafts,
            "guides": self.guides if isinstance(self.guides, bool) else str(self.guides),
        }

    @property
    def _draft_sampling(self) -> Sampling:
        return self.teacher_sampling

    def synthesize(self, examples: Sequence[MultiHopExample], models: Models) -> TraceSet:
        """Make one candidate per example, rollout number and trace number.

        Rejections besides those of `acceptance.find_fault`: `draft_unfinished`, `draft_empty`, `guide_unfinished`,
        `guide_empty` and, of published guides, `guide_missing`; each is counted once per rewrite that it prevents.
        """
        drafts = list(self._draft(examples, models))
        if self.drafter == "student":
            models.student.close()
        wanted = {draft.example.id: draft.example for draft in drafts if draft.fault is None}
        guides = self._guide(list(wanted.values()), models)
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
        for request, reply in models.generate("teacher", requests, "teacher rewrites drafts"):
            draft = origins[request.id]
            text = reply.content if reply else ""
            candidates.append((find_fault(reply, draft.example), self._trace(draft, text, request.sample)))
        return collect(candidates)

    def _draft(self, examples: Sequence[MultiHopExample], models: Models) -> Iterator[_Drafted]:
        by_id = {example.id: example for example in examples}
        requests = draft_requests(examples, self.rollouts, self._draft_sampling, self.drafter)
        for request, reply in models.generate(self.drafter, requests, f"{self.drafter} drafts"):
            yield _Drafted(
                by_id[example_id(request)],
                request.sample,
                reply,
                find_draft_fault(reply, unfinished=self.unfinished_drafts),
            )

    def _guide(self, examples: Sequence[MultiHopExample], models: Models) -> dict[str, _Guide]:
        """Return the guide of each example that needs one, by example id."""
        if self.guides is True:
            return dict(self._write_guides(examples, models))
        if self.guides is False:
            return {}
        found = self.guides.turns(examples)
        return {example.id: _found_guide(found.get(example.id, ())) for example in examples}

    def _write_guides(self, examples: Sequence[MultiHopExample], models: Models) -> Iterator[tuple[str, _Guide]]:
        requests = [
            ChatRequest(f"{example.id}/guide", guide_messages(example), self.teacher_sampling, example=example)
            for example in examples
        ]
        for request, reply in models.generate("teacher", requests, "teacher writes guides"):
            turns = (*request.messages, Message("assistant", reply.content.strip())) if reply else ()
            yield example_id(request), _Guide(turns, find_guide_fault(reply))

    def _request(self, key: str, draft: _Drafted, guide: _Guide, number: int) -> ChatRequest:
        assert draft.reply is not None
        example = draft.example
        solution = "\n\n".join(part for part in (draft.reply.reasoning, draft.reply.content) if part)
        (prompt,) = _given_answer(self.prompt, example, draft_solution=solution, guided=bool(guide.turns))
        return ChatRequest(key, (*guide.turns, prompt), self.teacher_sampling, sample=number, example=example)

    def _trace(self, draft: _Drafted, text: str, number: int) -> Trace:
        reply = draft.reply
        origin = Draft(reply.reasoning, reply.content, reply.finished) if reply else None
        return trace_of(self.name, draft.example, text, rollout_id=draft.rollout, trace_id=number, draft=origin)


def _given_answer(template: str, example: MultiHopExample, **values: object) -> tuple[Message, ...]:
    """Render a prompt that gives the teacher the question, its documents and its answer."""
    given = {"context": example.context, "question": example.question, "answer": example.answer}
    return (Message("user", render("synthesis", template, **given, **values)),)


def guide_messages(example: MultiHopExample) -> tuple[Message, ...]:
    """Return the prompt that requests a guide to the solution of an example."""
    return _given_answer("solution_guide", example)


def _found_guide(turns: tuple[Message, ...]) -> _Guide:
    if not turns:
        return _Guide((), "guide_missing")
    return _Guide(turns, None if turns[-1].content.strip() else "guide_empty")


@dataclass(frozen=True, kw_only=True)
class MBTR(_Rewriting):
    """MBT-R: the student drafts, the teacher rewrites the draft in the five phases.

    Attributes:
        rollouts: drafts per example.
        traces: rewrites per draft.
        guides: the teacher first writes a guide to the solution, once per example, and rewrites with that before it,
            as in the paper. False saves the request and gives it the bare answer; `PublishedGuides` reads guides that
            exist already.
        unfinished_drafts: also rewrite drafts that hit the length limit. The reference drops them, and so does the
            default; they are then counted as `draft_unfinished`.
        student_sampling: how drafts are sampled.
        teacher_sampling: how guides and rewrites are sampled.
    """

    name: ClassVar[str] = "mbt_r"

    student_sampling: Sampling = field(default_factory=Sampling)

    @property
    def _draft_sampling(self) -> Sampling:
        return self.student_sampling


@dataclass(frozen=True, kw_only=True)
class DistillR(MBTR):
    """Distill-R, the matched control: as MBT-R, but the rewrite is continuous text without the five phases.

    The paper's prompt is not published; `distill_r.jinja` is ours. The attributes are those of `MBTR`.
    """

    name: ClassVar[str] = "distill_r"
    prompt: ClassVar[str] = "distill_r"


@dataclass(frozen=True, kw_only=True)
class DirectR(_Rewriting):
    """Direct-R, the other control: the teacher answers the questions and rewrites its own answers in the five phases.

    Attributes:
        rollouts: the teacher's answers per example.
        traces: rewrites per answer.
        guides: as in `MBTR`.
        unfinished_drafts: as in `MBTR`.
        teacher_sampling: how answers, guides and rewrites are sampled.
    """

    name: ClassVar[str] = "direct_r"
    drafter: ClassVar[Role] = "teacher"
