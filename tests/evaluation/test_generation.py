"""A model answers the questions of a benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from introspect.chat.store import ResponseStore
from introspect.core.errors import InputError
from introspect.evaluation.generation import EvaluationSettings, generate_rollouts
from tests.chat.asking import Scripted, question

QUESTIONS = [question(n) for n in range(4)]


def test_rollouts_come_in_the_order_of_the_questions() -> None:
    rollouts = generate_rollouts(Scripted([1]), QUESTIONS, samples=2)
    assert [(r.example_id, r.rollout_id) for r in rollouts] == [(f"q{n}", s) for n in range(4) for s in range(2)]
    assert [r.predicted_answer for r in rollouts[::2]] == ["x", "a1", "x", "x"]


def test_what_the_store_holds_is_not_asked_again(tmp_path: Path) -> None:
    model = Scripted([0])
    with ResponseStore(tmp_path / "store.sqlite") as store:
        first = generate_rollouts(model, QUESTIONS[:2], store=store)
        second = generate_rollouts(model, QUESTIONS, store=store)
    assert model.asked == 4
    assert second[:2] == first


def test_only_the_student_is_asked_in_the_chosen_prompt_style() -> None:
    asked = []

    class Listening(Scripted):
        def generate(self, requests):
            received = list(requests)
            asked.extend(len(request.messages) for request in received)
            return super().generate(received)

    settings = EvaluationSettings(prompt="metacognitive")
    settings.generate(Listening(), QUESTIONS[:1], "student", prompt=settings.prompt)
    settings.generate(Listening(), QUESTIONS[:1], "baseline")
    assert asked == [2, 1]
    with pytest.raises(InputError, match=r"^model.testing.prompt is 'x', expected plain or metacognitive$"):
        EvaluationSettings(prompt="x")


def test_a_baseline_is_let_go_when_it_has_answered() -> None:
    events: list[str] = []

    class Held(Scripted):
        def close(self) -> None:
            events.append(f"let go after {self.asked}")

    runs = EvaluationSettings(baseline=Held, samples=2).compare(Scripted(), QUESTIONS[:3])
    assert len(runs.baseline or ()) == len(runs.model) == 6
    assert events == ["let go after 6"]
    assert EvaluationSettings().compare(Scripted(), QUESTIONS).baseline is None
