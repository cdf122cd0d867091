"""Questions, and a chat model that answers them as it is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from introspect.benchmarks.examples import Document, EvidenceStep, MultiHopExample
from introspect.chat.protocol import ChatModel, ChatRequest, ChatResponse, tag_answer
from introspect.chat.usage import Usage


def question(number: int) -> MultiHopExample:
    """`What is number <n>?`, answered by `a<n>`."""
    return MultiHopExample(
        id=f"q{number}",
        benchmark="numbers",
        question=f"What is number {number}?",
        answer=f"a{number}",
        documents=(Document(title="Numbers", sentences=(f"Number {number} is a{number}.",), label=0),),
        evidence=(EvidenceStep(document=0, statement=f"Number {number} is a{number}."),),
        hops=2,
        tier="easy",
    )


class Scripted(ChatModel):
    """A chat model that knows the answers to some questions and counts how often it is asked.

    The others it answers wrongly, or, if they are `lost`, wrongly after naming the right answer, or, if they are
    `endless`, not at all.
    """

    def __init__(
        self,
        right: Iterable[int] = (),
        *,
        lost: Iterable[int] = (),
        endless: Iterable[int] = (),
        name: str = "scripted",
    ) -> None:
        self.right, self.lost, self.endless = ({f"q{n}" for n in numbers} for numbers in (right, lost, endless))
        self.name = name
        self.asked = 0

    @property
    def identity(self) -> Mapping[str, str]:
        return {"model": self.name}

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse]:
        # Last question first: whoever joins on position notices.
        for request in reversed(list(requests)):
            self.asked += 1
            yield self._answer(request)

    def _answer(self, request: ChatRequest) -> ChatResponse:
        identifier = request.id.split("/")[0]
        gold = identifier.replace("q", "a")
        if identifier in self.endless:
            return ChatResponse(request.id, "again and again", "", "length", Usage(10, 50, 50))
        if identifier in self.right:
            return ChatResponse(request.id, f"It is {gold}.", tag_answer(gold), "stop", Usage(10, 20, 15))
        thought = f"It is {gold}. Or not." if identifier in self.lost else "No idea."
        return ChatResponse(request.id, thought, tag_answer("x"), "stop", Usage(10, 30, 25))


class Numbers:
    """A benchmark of such questions."""

    name = "numbers"

    def __init__(self, size: int = 4) -> None:
        self.size = size

    def load(self, split: str, limit: int | None = None) -> list[MultiHopExample]:
        return [question(n) for n in range(self.size)][:limit]
