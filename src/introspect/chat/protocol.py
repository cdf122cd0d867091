"""The engine room's vocabulary: requests, responses, and the protocol that every chat model speaks.

Student rollouts, trace synthesis and judging are the same act with different prompts. Each response carries the id
of its request, so results may stream in any order and are joined on ids, never on position.
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

# The finish reasons of a turn that ended by itself, in the words of OpenAI-compatible servers.
FINISHED = frozenset({"stop", "tool_calls", "function_call"})


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a response is drawn. The defaults are the paper's, for students, teachers and judges alike.

    `temperature` 0 is greedy decoding; `top_k` 0 keeps the whole vocabulary; `max_tokens` bounds the completion and
    None leaves only the model's context length.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20
    max_tokens: int | None = None
    seed: int = 42


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One completion to be made. `sample` numbers the draws of the same prompt from 0 and enters the random seed.

    `example` is what the request is about. It is never sent to a model: only the oracle, which answers from the
    benchmark's own annotation, reads it.
    """

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    sample: int = 0
    example: MultiHopExample | None = None


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """What a model said: its private reasoning apart from its visible content.

    `finish_reason` is the server's word: `stop` for a turn that ended by itself, `length` for one that hit the limit.
    """

    request_id: str
    reasoning: str
    content: str
    finish_reason: str
    usage: Usage

    @property
    def finished(self) -> bool:
        """Whether the turn ended by itself; a rollout that did not is a degeneration."""
        return self.finish_reason in FINISHED


@dataclass(frozen=True, slots=True)
class ChatFailure:
    """A request that a model gave up on, after `attempts` attempts.

    `reason` is one word to count by (`chat.remote.retry` lists those of servers); `detail` is one line for people.
    """

    request_id: str
    reason: str
    detail: str = ""
    attempts: int = 1


class ChatModel(ABC):
    """Anything that answers chat requests: the student, the teacher and the judge.

    Attributes:
        concurrency: requests that it works on at a time; 0 leaves that to whoever asks.
        max_failure_rate: fraction of the requests in [0, 1] that may fail before the run does.
        usage: what its answers have cost in this process; None where they cost nothing.
        reads_examples: whether it answers from `ChatRequest.example` and therefore needs the benchmark's items.
        starts_server: whether asking it starts a server in this process.
    """

    concurrency: int = 0
    max_failure_rate: float = 0.0
    usage: UsageCounter | None = None
    reads_examples: bool = False
    starts_server: bool = False

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, str]:
        """Everything besides the request that determines an answer, such as weights, chat template and engine.

        It is part of the key under which responses are stored.
        """

    @abstractmethod
    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse | ChatFailure]:
        """Yield one response or failure per request, as each is finished, in any order.

        Where the iterator is a `ReplyStream`, replies are made while nobody waits for them.
        """

    def close(self) -> None:  # noqa: B027 - most models hold nothing
        """Release what it holds, such as GPU memory or a server. The next request acquires it again."""

    def spent(self) -> dict[str, float]:
        """What its answers have cost, by the names of `UsageCounter.metrics`; empty where they cost nothing."""
        return {} if self.usage is None else self.usage.metrics()


@runtime_checkable
class ReplyStream(Protocol):
    """Replies that are made in the background."""

    def take(self) -> list[ChatResponse | ChatFailure]:
        """Every reply that is finished and was not yielded yet, without waiting."""
        ...

    def close(self) -> None:
        """Stop making replies. `take` still gives those that were finished."""
        ...


class SplitText(NamedTuple):
    """An assistant turn in two parts. `closed` is False when a think block was opened and never closed."""

    reasoning: str
    content: str
    closed: bool


def split_reasoning(text: str) -> SplitText:
    """Split an assistant turn into reasoning and content: the only place where this is decided.

    Reasoning runs from the first `<think>` (or from the start, when the chat template has already opened it) to the
    last `</think>`. An open think block is all reasoning: nothing in it counts as an answer. Text without tags is all
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
    """The assistant turn of a reasoning and a content: the inverse of `split_reasoning`, and every training target."""
    if not reasoning:
        return content
    return f"{THINK_OPEN}\n{reasoning}\n{THINK_CLOSE}\n\n{content}"


def tag_answer(answer: str) -> str:
    """`<answer>…</answer>`."""
    return f"{ANSWER_OPEN}{answer}{ANSWER_CLOSE}"


def extract_answer(content: str) -> str:
    """The text between the last `<answer>` and the first `</answer>` after it, stripped; "" where either is missing."""
    _, opened, tail = content.rpartition(ANSWER_OPEN)
    answer, closed, _ = tail.partition(ANSWER_CLOSE)
    return answer.strip() if opened and closed else ""
