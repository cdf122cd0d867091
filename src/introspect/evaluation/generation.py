"""Generating rollouts: a model answers the questions of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import Style, check_style, question_messages
from introspect.chat.protocol import ChatModel, ChatRequest, Sampling
from introspect.chat.store import ResponseStore, answer
from introspect.core.progress import track
from introspect.evaluation.rollouts import Rollout
from introspect.evaluation.runs import Runs


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How a student answers the questions that it is evaluated on.

    Attributes:
        sampling: how answers are drawn.
        samples: answers per question.
        store: the file that keeps responses; None keeps none.
        baseline: makes the chat model that the student is compared with, usually the student before it was tuned; None
            compares with nothing.
        prompt: how the student is prompted (`prompts.question_messages`); the baseline is prompted plainly.
        options: of the student's own `TransformersChat`, such as `batch_size`.
    """

    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 1
    store: str | Path | None = None
    baseline: Callable[[], ChatModel] | None = None
    prompt: Style = "plain"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_style(self.prompt, "model.testing.prompt")

    def generate(
        self, model: ChatModel, examples: Sequence[MultiHopExample], description: str, *, prompt: Style = "plain"
    ) -> list[Rollout]:
        """Let a model answer the questions; `description` is the progress bar's."""
        with ResponseStore(self.store) if self.store else nullcontext() as store:
            return generate_rollouts(
                model,
                examples,
                samples=self.samples,
                sampling=self.sampling,
                prompt=prompt,
                store=store,
                description=description,
            )

    def compare(self, student: ChatModel, examples: Sequence[MultiHopExample]) -> Runs:
        """Let the student answer the questions, and its baseline too, which is released afterwards."""
        answered = self.generate(student, examples, "student answers", prompt=self.prompt)
        before = None
        if self.baseline is not None:
            model = self.baseline()
            try:
                before = self.generate(model, examples, "baseline answers")
            finally:
                model.close()
        return Runs.of(self.samples * len(examples), answered, before)


def generate_rollouts(
    model: ChatModel,
    examples: Sequence[MultiHopExample],
    *,
    samples: int = 1,
    sampling: Sampling | None = None,
    prompt: Style = "plain",
    store: ResponseStore | None = None,
    description: str = "rollouts",
) -> list[Rollout]:
    """Let a model answer every question `samples` times.

    Args:
        model: who answers.
        examples: the questions.
        samples: answers per question, drawn independently.
        sampling: how they are drawn; None takes the paper's settings.
        prompt: how the question is put; see `prompts.question_messages`.
        store: what it already holds is not generated again.
        description: of the progress bar.

    Returns:
        One rollout per question and sample, in the order of the questions; none for a request that failed.
    """
    settings = sampling or Sampling()
    made = {
        f"{example.id}/{sample}": (example, question_messages(example, prompt), sample)
        for example in examples
        for sample in range(samples)
    }
    requests = [
        ChatRequest(id, messages, settings, sample, example) for id, (example, messages, sample) in made.items()
    ]
    answered = track(answer(model, requests, store), description=description, total=len(requests))
    rollouts = {request.id: Rollout.of(made[request.id][0], request, reply) for request, reply in answered}
    return [rollouts[request.id] for request in requests if request.id in rollouts]
