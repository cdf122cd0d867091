"""MBT-S: the teacher writes traces in five phases from scratch (arXiv 2602.22508, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import render
from introspect.chat.protocol import ChatModel, ChatRequest, Message, Sampling
from introspect.chat.store import ResponseStore
from introspect.synthesis.recipes.base import ask, collect, find_fault, trace_of
from introspect.synthesis.traces import Kind, TraceSet


class MBTS:
    """MBT-S: the teacher, who knows the gold answer, writes the trace from scratch.

    Args:
        traces: traces per example.
        teacher_sampling: how the teacher is sampled.
    """

    name = "mbt_s"
    kind: Kind = "synthesis"

    def __init__(self, *, traces: int = 1, teacher_sampling: Sampling | None = None) -> None:
        self.traces = traces
        self.teacher_sampling = teacher_sampling or Sampling()

    @property
    def settings(self) -> Mapping[str, object]:
        """Number of traces."""
        return {"traces": self.traces}

    def synthesize(
        self,
        examples: Sequence[MultiHopExample],
        student: ChatModel,
        teacher: ChatModel,
        store: ResponseStore | None = None,
    ) -> TraceSet:
        """One candidate per example and trace number; the student is not asked."""
        origins: dict[str, MultiHopExample] = {}
        requests = []
        for example in examples:
            prompt = render(
                "synthesis", "mbt_s", context=example.context, question=example.question, answer=example.answer
            )
            for number in range(self.traces):
                key = f"{example.id}/{number}"
                origins[key] = example
                messages = (Message("user", prompt),)
                requests.append(ChatRequest(key, messages, self.teacher_sampling, sample=number, example=example))
        candidates = []
        for request, reply in ask(teacher, requests, store, "teacher writes traces"):
            example = origins[request.id]
            text = reply.content if reply else ""
            trace = trace_of(self.name, example, text, trace_id=request.sample)
            candidates.append((find_fault(reply, example), trace))
        return collect(candidates)
