"""One Jinja file per prompt, in our own words; the plain question prompt is worded as the published students saw it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from introspect.reasoning.chat import Message
from introspect.reasoning.examples import MultiHopExample

if TYPE_CHECKING:
    from jinja2 import Environment


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


def question_messages(example: MultiHopExample) -> tuple[Message, ...]:
    """The plain question over the example's documents: what every student is asked, in training and in evaluation."""
    return (Message("user", render("question", context=example.context, question=example.question)),)
