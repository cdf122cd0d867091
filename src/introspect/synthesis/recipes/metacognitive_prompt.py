"""The baseline without training: the untuned student with another prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import Style, check_style
from introspect.synthesis.recipes.base import Models, Recipe
from introspect.synthesis.traces import TraceSet


class MetacognitivePrompt(Recipe):
    """Makes no traces: the test prompts the student with a system turn that prescribes the five phases.

    Its baseline is the same student with the plain prompt.

    Args:
        prompt: see `prompts.question_messages`.
    """

    name = "metacognitive_prompt"
    trains = False

    def __init__(self, *, prompt: Style = "metacognitive") -> None:
        self.prompt = check_style(prompt, "recipe.prompt")

    @property
    def settings(self) -> Mapping[str, object]:
        """The prompt."""
        return {"prompt": self.prompt}

    def synthesize(self, examples: Sequence[MultiHopExample], models: Models) -> TraceSet:
        """Return no traces."""
        return TraceSet((), {})
