"""A chat model that is created when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any

from introspect.chat.protocol import ChatFailure, ChatModel, ChatRequest, ChatResponse


class LazyChatModel(ChatModel):
    """Creates a chat model when it is first used, because loading takes minutes and not every recipe needs each model.

    Args:
        source: a chat model, or a function that creates one.
    """

    # The model's own; reading one of them creates the model.
    identity: Any = property(attrgetter("model.identity"))
    concurrency: Any = property(attrgetter("model.concurrency"))
    max_failure_rate: Any = property(attrgetter("model.max_failure_rate"))
    reads_examples: Any = property(attrgetter("model.reads_examples"))
    starts_server: Any = property(attrgetter("model.starts_server"))
    usage: Any = property(attrgetter("model.usage"))

    def __init__(self, source: ChatModel | Callable[[], ChatModel]) -> None:
        self._source = source
        self._created: ChatModel | None = None
        self._past: dict[str, float] = {}  # usage of the models that were closed

    @property
    def model(self) -> ChatModel:
        """The model, created if necessary."""
        if self._created is None:
            self._created = self._source if isinstance(self._source, ChatModel) else self._source()
        return self._created

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse | ChatFailure]:
        """Yield the model's responses."""
        return self.model.generate(requests)

    def spent(self) -> dict[str, float]:
        """Return the usage of all models that were created, including closed ones."""
        now = {} if self._created is None else self._created.spent()
        return {name: self._past.get(name, 0.0) + now.get(name, 0.0) for name in {**self._past, **now}}

    def close(self) -> None:
        """Close the model. The next request creates it again."""
        if self._created is None:
            return
        self._created.close()
        if self._created is not self._source:  # whose counter continues
            self._past, self._created = self.spent(), None


def spent_by(**models: ChatModel) -> dict[str, float]:
    """Return the usage of several models, each number under `<model>/<name>`."""
    return {f"{who}/{name}": number for who, model in models.items() for name, number in model.spent().items()}
