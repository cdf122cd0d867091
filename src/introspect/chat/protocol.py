"""Requests, responses, and the interface of every chat model: the student, the teacher and the judge.

Each response has the id of its request, so responses may come in any order and are joined on ids, never on position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.usage import Usage, UsageCounter

Role = Literal["system", "user", "assistant"]

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

# The finish reasons of OpenAI-compatible servers for a turn that ended by itself.
FINISHED = frozenset({"stop", "tool_calls", "function_call"})


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: who speaks.
        content: text of the turn.
    """

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings of a response. The defaults are the paper's, for students, teachers and judges.

    Attributes:
        temperature: 0 is greedy decoding.
        top_p: probability that the kept tokens reach together, in (0, 1].
        top_k: number of most probable tokens to keep; 0 keeps the whole vocabulary.
        max_tokens: limit of the completion; None leaves only the model's context length.
        seed: of the random draws.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20
    max_tokens: int | None = None
    seed: int = 42


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request for one completion.

    Attributes:
        id: unique among the requests of a call.
        messages: the conversation so far.
        sampling: see `Sampling`.
        sample: number of the draw from the same prompt, from 0; part of the random seed.
        example: the question. It is never sent to a model: only the oracle reads it, for the benchmark's annotation.
    """

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    sample: int = 0
    example: MultiHopExample | None = None


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """A model's response.

    Attributes:
        request_id: id of the request.
        reasoning: the private think block, without its tags.
        content: the visible part of the turn.
        finish_reason: `stop` for a turn that ended by itself, `length` for one that reached the limit, or another
            word of the server.
        usage: token counts.
    """

    request_id: str
    reasoning: str
    content: str
    finish_reason: str
    usage: Usage

    @property
    def finished(self) -> bool:
        """Whether the turn ended by itself; if not, the rollout is degenerate."""
        return self.finish_reason in FINISHED


@dataclass(frozen=True, slots=True)
class ChatFailure:
    """A request without a response.

    Attributes:
        request_id: id of the request.
        reason: one word to count by; `chat.remote.retry` lists those of servers.
        detail: one line for people.
        attempts: number of times it was sent.
    """

    request_id: str
    reason: str
    detail: str = ""
    attempts: int = 1


class ChatModel(ABC):
    """Base class of everything that responds to chat requests: the student, the teacher and the judge.

    Attributes:
        concurrency: requests that it works on at a time; 0 leaves that to the caller.
        max_failure_rate: fraction of the requests in [0, 1] that may fail before the run does.
        usage: usage of its responses in this process; None where they cost nothing.
        reads_examples: whether it reads `ChatRequest.example` and therefore needs the benchmark's annotation.
        starts_server: whether its first request starts a server on this machine.
    """

    concurrency: int = 0
    max_failure_rate: float = 0.0
    usage: UsageCounter | None = None
    reads_examples: bool = False
    starts_server: bool = False

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, str]:
        """Everything besides the request that determines a response, such as weights, chat template and engine.

        It is part of the key under which responses are stored.
        """

    @abstractmethod
    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse | ChatFailure]:
        """Yield one response or failure per request, as each is finished, in any order.

        A `ReplyStream` also continues in the background while the consumer does something else.
        """

    def close(self) -> None:  # noqa: B027 - most models hold nothing
        """Release resources such as GPU memory or a server. The next request acquires them again."""

    def spent(self) -> dict[str, float]:
        """Return the usage by the names of `UsageCounter.metrics`; empty where responses cost nothing."""
        return {} if self.usage is None else self.usage.metrics()


@runtime_checkable
class ReplyStream(Protocol):
    """An iterator whose responses and failures arrive in the background."""

    def take(self) -> list[ChatResponse | ChatFailure]:
        """Return all that has arrived and was not yielded yet, without waiting."""
        ...

    def close(self) -> None:
        """Stop. `take` still returns what had arrived."""
        ...


class SplitText(NamedTuple):
    """An assistant turn in two parts.

    Attributes:
        reasoning: the think block, without its tags.
        content: the rest.
        closed: False if a think block was opened and never closed.
    """

    reasoning: str
    content: str
    closed: bool


def split_reasoning(text: str) -> SplitText:
    """Split an assistant turn into reasoning and content. Training targets, rollouts and metrics all use this function.

    Reasoning goes from the first `<think>` (or from the start, if the chat template has already opened it) to the last
    `</think>`. An open think block is all reasoning: nothing in it counts as an answer. Text without tags is all
    content.
    """
    head, opened, tail = text.partition(THINK_OPEN)
    if opened and head.strip():
        # Visible text before the block: a model that mentions the tag, not one that thinks first.
        return SplitText("", text.strip(), True)
    body = tail if opened else text
    reasoning, closed, content = body.rpartition(THINK_CLOSE)
    if closed:
        return SplitText(reasoning.strip(), content.strip(), True)
    return SplitText(body.strip(), "", False) if opened else SplitText("", text.strip(), True)


def join_reasoning(reasoning: str, content: str) -> str:
    """Join reasoning and content to an assistant turn, as in every training target: inverse of `split_reasoning`."""
    if not reasoning:
        return content
    return f"{THINK_OPEN}\n{reasoning}\n{THINK_CLOSE}\n\n{content}"


def tag_answer(answer: str) -> str:
    """Return `<answer>…</answer>`."""
    return f"{ANSWER_OPEN}{answer}{ANSWER_CLOSE}"


def extract_answer(content: str) -> str:
    """Return the text between the last `<answer>` and the next `</answer>`, stripped; "" where either is missing."""
    _, opened, tail = content.rpartition(ANSWER_OPEN)
    answer, closed, _ = tail.partition(ANSWER_CLOSE)
    return answer.strip() if opened and closed else ""
