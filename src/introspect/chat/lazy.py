"""A chat model that is made when it is first asked for anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from introspect.chat.protocol import ChatFailure, ChatModel, ChatRequest, ChatResponse
from introspect.chat.usage import UsageCounter


class Lazy(ChatModel):
    """Stands for a chat model or a factory of one.

    Not every recipe asks every model, and to load one costs minutes and memory.
    """

    def __init__(self, source: ChatModel | Callable[[], ChatModel]) -> None:
        self._source = source
        self._made: ChatModel | None = None
        self._past: dict[str, float] = {}  # what models have cost that were closed

    @property
    def model(self) -> ChatModel:
        """The model, made if it is not yet."""
        if self._made is None:
            self._made = self._source if isinstance(self._source, ChatModel) else self._source()
        return self._made

    @property
    def concurrency(self) -> int:  # type: ignore[override]  # here and below: read-only
        """The model's."""
        return self.model.concurrency

    @property
    def max_failure_rate(self) -> float:  # type: ignore[override]
        """The model's."""
        return self.model.max_failure_rate

    @property
    def reads_examples(self) -> bool:  # type: ignore[override]
        """The model's."""
        return self.model.reads_examples

    @property
    def usage(self) -> UsageCounter | None:  # type: ignore[override]
        """The model's."""
        return self.model.usage

    @property
    def identity(self) -> Mapping[str, str]:
        """The model's."""
        return self.model.identity

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse | ChatFailure]:
        """As the model does."""
        return self.model.generate(requests)

    def spent(self) -> dict[str, float]:
        """What the answers have cost, also those of a model that was closed; empty if none was asked."""
        now = {} if self._made is None else self._made.spent()
        return {name: self._past.get(name, 0.0) + now.get(name, 0.0) for name in {**self._past, **now}}

    def close(self) -> None:
        """Close the model. Asked again, it is made again."""
        if self._made is None:
            return
        self._made.close()
        if self._made is not self._source:  # whose counter goes on
            self._past, self._made = self.spent(), None


def spent_by(**models: ChatModel) -> dict[str, float]:
    """What several models' answers have cost, each number under `<who>/<name>`."""
    return {f"{who}/{name}": number for who, model in models.items() for name, number in model.spent().items()}
