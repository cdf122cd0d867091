"""Prompts: one Jinja file each, in the room that uses it; here those with which a student is asked a question.

The wording is ours; the plain question is worded as the published students saw it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal, cast, get_args

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.protocol import Message
from introspect.core.errors import InputError

if TYPE_CHECKING:
    from jinja2 import Environment

# How a student is asked.
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
        room: the package whose folder `prompts/` holds the file, such as `synthesis` or `evaluation.judging`.
        prompt: the file's name without `.jinja`.
        values: of the prompt's variables.

    Raises:
        jinja2.UndefinedError: a value is missing.
    """
    return _environment(room).get_template(f"{prompt}.jinja").render(**values)


def question_messages(example: MultiHopExample, style: Style = "plain") -> tuple[Message, ...]:
    """The question over the example's documents, as every student is asked it, in training and in evaluation.

    Args:
        example: the question.
        style: `plain`, or `metacognitive` with a system turn before it that prescribes the five phases.
    """
    turn = Message("user", render("chat", "question", context=example.context, question=example.question))
    return (turn,) if style == "plain" else (Message("system", render("chat", style)), turn)


def check_style(style: str, setting: str) -> Style:
    """The style that a setting names.

    Raises:
        InputError: there is none of that name.
    """
    if style not in get_args(Style):
        raise InputError(f"{setting} is {style!r}, expected {' or '.join(get_args(Style))}")
    return cast(Style, style)
