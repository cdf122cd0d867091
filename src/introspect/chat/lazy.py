"""A chat model that is made when it is first asked for anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from introspect.chat.protocol import ChatModel
from introspect.chat.usage import spent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from introspect.chat.protocol import ChatFailure, ChatRequest, ChatResponse


def release(model: ChatModel) -> None:
    """Close a chat model that holds something: the next model may need the room."""
    close: Callable[[], None] | None = getattr(model, "close", None)
    if close is not None:
        close()


class Lazy:
    """Stands for a chat model or a factory of one; whatever is wanted of it is wanted of the model.

    Not every recipe asks every model, and to load one costs minutes and memory.
    """

    def __init__(self, source: ChatModel | Callable[[], ChatModel]) -> None:
        self._source = source
        self._made: ChatModel | None = None
        self._past: dict[str, float] = {}  # what models cost that were let go

    @property
    def model(self) -> ChatModel:
        """The model, made if it is not yet."""
        if self._made is None:
            source: Any = self._source
            self._made = source if hasattr(source, "generate") else source()
        return self._made

    @property
    def spent(self) -> dict[str, float]:
        """What the model's answers cost, also of one that was let go; nothing, if it was not asked."""
        now = {} if self._made is None else spent(self._made)
        return {name: self._past.get(name, 0.0) + now.get(name, 0.0) for name in {**self._past, **now}}

    @property
    def identity(self) -> Mapping[str, str]:
        """The model's."""
        return self.model.identity

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse | ChatFailure]:
        """As the model does."""
        return self.model.generate(requests)

    def close(self) -> None:
        """Let go of the model and of what it holds: a GPU's memory, a server. Asked again, it is made again."""
        if self._made is None:
            return
        release(self._made)
        if self._made is not self._source:  # whose ledger goes on
            self._past, self._made = self.spent, None

    def __getattr__(self, name: str) -> Any:
        # Only what is not found above, such as `concurrency`.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.model, name)


def spent_by(**models: Lazy) -> dict[str, float]:
    """What several models' answers cost, each number under `<who>/<name>`."""
    return {f"{who}/{name}": number for who, model in models.items() for name, number in model.spent.items()}
