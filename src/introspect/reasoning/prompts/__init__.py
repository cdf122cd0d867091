"""One Jinja file per prompt, in our own words; the plain question prompt is worded as the published students saw it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal, cast, get_args

from introspect.errors import InputError
from introspect.reasoning.chat import Message
from introspect.reasoning.examples import MultiHopExample

if TYPE_CHECKING:
    from jinja2 import Environment

# How a student is asked.
Style = Literal["plain", "metacognitive"]


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Prompts are plain text for a model, never HTML: escaping would change the documents.
    return Environment(
        loader=PackageLoader("introspect.reasoning", "prompts"), undefined=StrictUndefined, autoescape=False
    )


def render(prompt: str, **values: object) -> str:
    """The text of `<prompt>.jinja` with `values`; a value that is missing raises `jinja2.UndefinedError`."""
    return _environment().get_template(f"{prompt}.jinja").render(**values)


def question_messages(example: MultiHopExample, style: Style = "plain") -> tuple[Message, ...]:
    """The question over the example's documents, as every student is asked it, in training and in evaluation.

    Args:
        example: the question.
        style: `plain`, or `metacognitive` with a system turn before it that prescribes the five phases.
    """
    turn = Message("user", render("question", context=example.context, question=example.question))
    return (turn,) if style == "plain" else (Message("system", render(style)), turn)


def check_style(style: str, setting: str) -> Style:
    """The style that a setting names.

    Raises:
        InputError: there is none of that name.
    """
    if style not in get_args(Style):
        raise InputError(f"{setting} is {style!r}, expected {' or '.join(get_args(Style))}")
    return cast(Style, style)
