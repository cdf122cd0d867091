"""Questions of hopworld, and chat models that answer them by a function of the request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from introspect.benchmarks.examples import MultiHopExample
from introspect.benchmarks.hopworld import Hopworld
from introspect.chat.protocol import ChatFailure, ChatModel, ChatRequest, ChatResponse, split_reasoning, tag_answer
from introspect.chat.usage import Usage

EXAMPLES = Hopworld(seed=0, sizes={"train": 6}).load("train")
BY_ID = {example.id: example for example in EXAMPLES}


class Scripted(ChatModel):
    """Answers in reverse order, and notes what it was asked; gives up on the requests whose ids are in `fails`."""

    max_failure_rate = 1.0

    identity = {"model": "scripted"}  # noqa: RUF012

    def __init__(self, reply: Callable[[ChatRequest], tuple[str, str]], fails: Collection[str] = ()) -> None:
        self.reply, self.fails = reply, fails
        self.asked: list[ChatRequest] = []

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse | ChatFailure]:
        received = list(requests)
        self.asked += received
        for request in reversed(received):
            if request.id in self.fails:
                yield ChatFailure(request.id, "refused", "no")
                continue
            text, reason = self.reply(request)
            parts = split_reasoning(text)
            yield ChatResponse(request.id, parts.reasoning, parts.content, reason, Usage(1, 1, 0))


def example_of(request: ChatRequest) -> MultiHopExample:
    """The example whose question is asked."""
    said = " ".join(message.content for message in request.messages)
    return next(example for example in EXAMPLES if example.question in said)


def right(request: ChatRequest) -> tuple[str, str]:
    """Thinks and answers rightly."""
    answer = example_of(request).answer
    return f"<think>\nIt is {answer}.\n</think>\n\n{tag_answer(answer)}", "stop"


def wrong(request: ChatRequest) -> tuple[str, str]:
    """Thinks and answers wrongly."""
    return f"<think>\nHmm.\n</think>\n\n{tag_answer('nobody')}", "stop"


def endless(request: ChatRequest) -> tuple[str, str]:
    """Never comes to an answer."""
    return "<think>\nWait, let me check again.", "length"


def concludes(request: ChatRequest) -> tuple[str, str]:
    """A teacher's text, another for each example, as a gate lets it pass."""
    return f"We see. The answer is {example_of(request).answer}.", "stop"
