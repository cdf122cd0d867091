"""Prompts: one Jinja file each, in the package that uses it; this folder holds the questions to a student.

The plain question has the wording of the published students' training data.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal, cast, get_args

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.protocol import Message
from introspect.core.errors import InputError

if TYPE_CHECKING:
    from jinja2 import Environment

# The prompts of a question.
Style = Literal["plain", "metacognitive"]


@cache
def _environment(room: str) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Prompts are plain text for a model, never HTML: escaping would change the documents.
    return Environment(
        loader=PackageLoader(f"introspect.{room}", "prompts"), undefined=StrictUndefined, autoescape=False
    )


def render(room: str, prompt: str, **values: object) -> str:
    """Render a prompt of a room.

    Args:
        room: the package of introspect whose folder `prompts/` holds the file, e.g. `evaluation.judging`.
        prompt: the file's name without `.jinja`.
        values: of the prompt's variables.

    Raises:
        jinja2.UndefinedError: a value is missing.
    """
    return _environment(room).get_template(f"{prompt}.jinja").render(**values)


def question_messages(example: MultiHopExample, style: Style = "plain") -> tuple[Message, ...]:
    """Return the messages of a question over its documents, the same in training and in evaluation.

    Args:
        example: the question.
        style: `plain`, or `metacognitive`, which adds a system message that prescribes the five phases.
    """
    turn = Message("user", render("chat", "question", context=example.context, question=example.question))
    return (turn,) if style == "plain" else (Message("system", render("chat", style)), turn)


def check_style(style: str, setting: str) -> Style:
    """Return the style that a setting names.

    Args:
        style: value of the setting.
        setting: name of the setting, for the error.

    Raises:
        InputError: there is no such style.
    """
    if style not in get_args(Style):
        raise InputError(f"{setting} is {style!r}, expected {' or '.join(get_args(Style))}")
    return cast(Style, style)
