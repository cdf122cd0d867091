"""The contract of a recipe, and the parts that recipes share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import question_messages
from introspect.chat.protocol import ChatModel, ChatRequest, ChatResponse, Sampling, join_reasoning, tag_answer
from introspect.chat.store import ResponseStore, answer
from introspect.core.progress import track
from introspect.synthesis.traces import Draft, Kind, Trace, TraceSet

Role = Literal["student", "teacher"]


@dataclass(frozen=True, slots=True)
class Models:
    """The chat models that a recipe may use.

    Attributes:
        student: the untuned student.
        teacher: the model that writes traces.
        store: keeps every response, so that nothing is generated twice; None keeps none.
    """

    student: ChatModel
    teacher: ChatModel
    store: ResponseStore | None = None

    def generate(
        self, role: Role, requests: Sequence[ChatRequest], what: str
    ) -> Iterator[tuple[ChatRequest, ChatResponse | None]]:
        """Yield every request once, with its response as soon as it is there, and show progress under the name `what`.

        Requests that failed permanently come last, with None; a recipe counts them as `request_failed`.
        """
        pending = {request.id: request for request in requests}
        responses = answer(self.model(role), requests, self.store)
        for request, response in track(responses, description=what, total=len(requests)):
            del pending[request.id]
            yield request, response
        yield from ((request, None) for request in pending.values())

    def model(self, role: Role) -> ChatModel:
        """Return one of the two."""
        return self.student if role == "student" else self.teacher


class Recipe(ABC):
    """Turns examples into traces.

    Attributes:
        name: recorded with the traces.
        kind: what the traces are, which decides the columns of an export; None where they cannot be exported.
        trains: whether there are traces to train on; False for a recipe that only prompts differently.
        reads_questions: whether it needs the benchmark's training questions; False for one that reads its traces from
            elsewhere.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind | None] = None
    trains: ClassVar[bool] = True
    reads_questions: ClassVar[bool] = True

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, object]:
        """What decides which candidates become traces, recorded with them: plain values by name."""

    @abstractmethod
    def synthesize(self, examples: Sequence[MultiHopExample], models: Models) -> TraceSet:
        """Make traces. Every candidate is either one of the result's `traces` or counted in its `rejections`."""


def draft_requests(
    examples: Sequence[MultiHopExample], rollouts: int, sampling: Sampling, role: Role
) -> list[ChatRequest]:
    """Return `rollouts` requests per example that ask its question, with ids `<example>/<rollout>`.

    Requests to a teacher carry the example, from which the oracle answers.
    """
    return [
        ChatRequest(
            f"{example.id}/{rollout}",
            question_messages(example),
            sampling,
            sample=rollout,
            example=example if role == "teacher" else None,
        )
        for example in examples
        for rollout in range(rollouts)
    ]


def example_id(request: ChatRequest) -> str:
    """Return the id of the example that a request `<example>/<rollout>` is about."""
    return request.id.rpartition("/")[0]


def trace_of(
    recipe: str,
    example: MultiHopExample,
    text: str,
    *,
    rollout_id: int = 0,
    trace_id: int = 0,
    draft: Draft | None = None,
) -> Trace:
    """Make a trace of a teacher's text: the question as prompt, the text as think block, then the reference answer."""
    return Trace(
        example_id=example.id,
        rollout_id=rollout_id,
        trace_id=trace_id,
        recipe=recipe,
        messages=question_messages(example),
        target=join_reasoning(text.strip(), tag_answer(example.answer)),
        draft=draft,
    )
