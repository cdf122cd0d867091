"""The baseline without training: the student as it is, told how to think."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import Style, check_style
from introspect.chat.protocol import ChatModel
from introspect.chat.store import ResponseStore
from introspect.synthesis.traces import TraceSet


class MetacognitivePrompt:
    """Makes no traces: the test asks the student with a system turn that prescribes the five phases.

    Its baseline is the same student, asked plainly.

    Args:
        prompt: how the student is asked; see `prompts.question_messages`.
    """

    name = "metacognitive_prompt"
    trains = False

    def __init__(self, *, prompt: Style = "metacognitive") -> None:
        self.prompt = check_style(prompt, "recipe.prompt")

    @property
    def settings(self) -> Mapping[str, object]:
        """How the student is asked."""
        return {"prompt": self.prompt}

    def synthesize(
        self,
        examples: Sequence[MultiHopExample],
        student: ChatModel,
        teacher: ChatModel,
        store: ResponseStore | None = None,
    ) -> TraceSet:
        """Nothing."""
        return TraceSet((), {})
