"""Rollouts of a student, and the report that says whether tuning helped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from introspect.chat.store import ResponseStore
from introspect.core.errors import InputError
from introspect.evaluation.outcomes import verdict
from introspect.evaluation.rollouts import load_rollouts
from introspect.evaluation.testing import Testing as HowTested
from introspect.evaluation.testing import report, rollout, rollout_table
from tests.chat.asking import Scripted, question

QUESTIONS = [question(n) for n in range(4)]


def test_rollouts_come_in_the_order_of_the_questions() -> None:
    rollouts = rollout(Scripted([1]), QUESTIONS, samples=2)
    assert [(r.example_id, r.rollout_id) for r in rollouts] == [(f"q{n}", s) for n in range(4) for s in range(2)]
    assert [r.predicted_answer for r in rollouts[::2]] == ["x", "a1", "x", "x"]


def test_what_the_store_holds_is_not_asked_again(tmp_path: Path) -> None:
    model = Scripted([0])
    with ResponseStore(tmp_path / "store.sqlite") as store:
        first = rollout(model, QUESTIONS[:2], store=store)
        second = rollout(model, QUESTIONS, store=store)
    assert model.asked == 4
    assert second[:2] == first


def test_only_the_student_is_asked_in_the_style_of_the_test() -> None:
    asked = []

    class Listening(Scripted):
        def generate(self, requests):
            received = list(requests)
            asked.extend(len(request.messages) for request in received)
            return super().generate(received)

    testing = HowTested(prompt="metacognitive")
    testing.rollouts(Listening(), QUESTIONS[:1], "student", prompt=testing.prompt)
    testing.rollouts(Listening(), QUESTIONS[:1], "baseline")
    assert asked == [2, 1]
    with pytest.raises(InputError, match=r"^model.testing.prompt is 'x', expected plain or metacognitive$"):
        HowTested(prompt="x")


def test_verdicts() -> None:
    rollouts = rollout(Scripted([0], lost=[1], endless=[2]), QUESTIONS)
    assert [verdict(r) for r in rollouts] == ["right", "lost", "endless", "wrong"]


def test_report_writes_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = rollout(Scripted([0], lost=[1], endless=[2, 3]), QUESTIONS)
    after = rollout(Scripted([0, 1, 2]), QUESTIONS)
    comparison = report(before, after, tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text())
    required = {"accuracy", "f1", "completion_tokens", "degeneration_rate", "answer_inclusive_error_rate", "n"}
    assert required <= content["baseline"].keys()
    assert required | {"aes"} <= content["model"].keys()
    assert (content["baseline"]["accuracy"], content["model"]["accuracy"]) == (0.25, 0.75)
    assert (content["baseline"]["degeneration_rate"], content["baseline"]["answer_inclusive_error_rate"]) == (0.5, 0.25)
    assert (content["baseline"]["completion_tokens"], content["model"]["completion_tokens"]) == (37.5, 22.5)
    assert content["model"]["n"] == 4
    assert content["model"]["aes"] == pytest.approx(comparison.model["aes"])
    assert load_rollouts(tmp_path / "rollouts/baseline.parquet") == before
    assert load_rollouts(tmp_path / "rollouts/model.parquet") == after
    assert "accuracy" in capsys.readouterr().out


def test_report_of_a_model_alone(tmp_path: Path) -> None:
    comparison = report(None, rollout(Scripted([0]), QUESTIONS), tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["baseline"] is None
    assert content["model"]["accuracy"] == comparison.model["accuracy"] == 0.25
    assert "ci95" in content["model"]
    assert not (tmp_path / "rollouts/baseline.parquet").exists()


def test_report_refuses_runs_on_other_questions(tmp_path: Path) -> None:
    model = Scripted()
    with pytest.raises(InputError, match="same questions"):
        report(rollout(model, QUESTIONS[:2]), rollout(model, QUESTIONS[1:3]), tmp_path)


def test_the_table_shows_both_answers_to_a_question() -> None:
    before = rollout(Scripted(lost=[0]), QUESTIONS)[::-1]
    after = rollout(Scripted([0]), QUESTIONS)
    columns, rows = rollout_table(before, after, limit=2)
    assert len(rows) == 2
    row = dict(zip(columns, rows[0], strict=True))
    assert row == {
        "id": "q0",
        "hops": 2,
        "question": "What is number 0?",
        "gold": "a0",
        "answer before": "x",
        "verdict before": "lost",
        "tokens before": 30,
        "trace before": "It is a0. Or not.",
        "answer after": "a0",
        "verdict after": "right",
        "tokens after": 20,
        "trace after": "It is a0.",
    }
    columns, rows = rollout_table(None, after, limit=9)
    assert "answer before" not in columns
    assert len(rows) == 4


def test_wandb_gets_the_table(tmp_path: Path) -> None:
    import wandb

    from introspect.tracking.loggers import finish_wandb, wandb_logger

    logger = wandb_logger(project="p", save_dir=tmp_path)
    report(rollout(Scripted(), QUESTIONS), rollout(Scripted([0]), QUESTIONS), tmp_path, [logger], table_rows=3)
    assert wandb.run is not None
    (table,) = Path(wandb.run.dir).glob("media/table/test/rollouts*.json")
    finish_wandb()
    content = json.loads(table.read_text())
    assert content["columns"][:4] == ["id", "hops", "question", "gold"]
    assert len(content["data"]) == 3


def test_a_baseline_is_let_go_when_it_has_answered() -> None:
    events: list[str] = []

    class Held(Scripted):
        def close(self) -> None:
            events.append(f"let go after {self.asked}")

    testing = HowTested(baseline=Held)
    assert len(testing.baseline_rollouts([question(n) for n in range(3)]) or ()) == 3
    assert events == ["let go after 3"]
    assert HowTested().baseline_rollouts([question(0)]) is None
