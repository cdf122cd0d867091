"""The student under test: what it must offer, and how one is opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from introspect.assets import asset
from introspect.chat.protocol import ChatModel
from introspect.core.errors import InputError
from introspect.core.inference import chosen_device
from introspect.evaluation.runs import AUTO, Runs

# Makes the chat model of the folder, the hub id or, on a server, the name that is given to it as `name_or_path`.
Engine = Callable[..., ChatModel]


class TestedStudent(Protocol):
    """A Lightning module that can be evaluated: by `trainer.test` with `RolloutReport`, or from its checkpoint."""

    test_runs: Runs
    """What this process answered since the test began; `RolloutReport` scores it when the test ends."""

    @property
    def base_model(self) -> str | None:
        """The folder or hub id of the model that it was tuned from; None if it began with random weights."""
        ...

    def chat_model(self, **options: Any) -> ChatModel:
        """Make a chat model on the live weights.

        Args:
            options: of `TransformersChat`, such as `batch_size`.
        """
        ...

    def to(self, device: Any) -> Self:
        """Move the weights to a device."""
        ...


class LoadCheckpoint(Protocol):
    """Opens a checkpoint of a training, as `introspect.tuning.student.load_student` does."""

    def __call__(self, ckpt_path: str, *, trust_remote_code: bool) -> TestedStudent:
        """Load the student in evaluation mode; `trust_remote_code` lets code that comes with the base model run.

        Raises:
            InputError: the file is no checkpoint of a student.
        """
        ...


class Opened(NamedTuple):
    """A chat model, and the folder or hub id of the model that it was tuned from, where that is known."""

    model: ChatModel
    base: str | None


def open_model(source: str, engine: Engine | None = None, load_checkpoint: LoadCheckpoint | None = None) -> Opened:
    """Open the chat model of a checkpoint, a model folder, a hub id, or a name at a server.

    Args:
        source: where it is.
        engine: makes the chat model; None is `TransformersChat.from_pretrained`. A checkpoint knows its own number
            format and origin: of the engine's options it takes `batch_size`, `max_new_tokens`, `device` and
            `trust_remote_code`.
        load_checkpoint: opens a checkpoint.

    Raises:
        InputError: it cannot be loaded, or the engine runs no checkpoints.
    """
    from introspect.chat.local.transformers import TransformersChat
    from introspect.chat.remote.openai import OpenAIChat

    own = TransformersChat.from_pretrained
    made = engine if isinstance(engine, partial) else partial(engine or own)
    if Path(source).suffix != ".ckpt" and not Path(source).is_file():
        model = made(name_or_path=source)
        # The names of a server elsewhere are its own: they say nothing about folders here.
        is_elsewhere = isinstance(model, OpenAIChat) and model.server is None
        return Opened(model, None if is_elsewhere else base_of(Path(source)))
    if made.func != own:
        raise InputError(
            f"{source}: only engine=transformers runs a checkpoint: give the folder that was exported beside it, or"
            " export it with ReasoningStudent.export"
        )
    if load_checkpoint is None:
        raise InputError(
            f"{source}: a checkpoint of a training; evaluation.load_checkpoint names nothing that opens it"
        )
    options: Mapping[str, Any] = made.keywords
    student = load_checkpoint(source, trust_remote_code=bool(options.get("trust_remote_code", False)))
    student = student.to(chosen_device(options.get("device", AUTO)))
    chosen = {name: options[name] for name in ("batch_size", "max_new_tokens") if name in options}
    return Opened(student.chat_model(**chosen), student.base_model)


def base_of(folder: Path) -> str | None:
    """Read from the model card in a folder which model its model was tuned from; None if it does not say."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8")
    if named := re.search(r"^base_model: *['\"]?([\w./-]+)", text, re.MULTILINE):
        return named[1]
    if embedded := re.search(r"^- base model: ([\w.-]+)$", text, re.MULTILINE):
        try:
            return asset(embedded[1])
        except InputError:
            return None
    return None
