"""The report that says whether tuning helped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from introspect.core.errors import InputError
from introspect.evaluation.generation import generate_rollouts
from introspect.evaluation.report import rollout_table, write_report
from introspect.evaluation.rollouts import load_rollouts
from introspect.evaluation.runs import Runs
from tests.chat.asking import Scripted, question

QUESTIONS = [question(n) for n in range(4)]


def test_report_writes_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = generate_rollouts(Scripted([0], lost=[1], endless=[2, 3]), QUESTIONS)
    after = generate_rollouts(Scripted([0, 1, 2]), QUESTIONS)
    numbers = write_report(Runs(after, before), tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text())
    required = {"accuracy", "f1", "completion_tokens", "degeneration_rate", "answer_inclusive_error_rate", "n"}
    assert required <= content["baseline"].keys()
    assert required | {"aes"} <= content["model"].keys()
    assert (content["baseline"]["accuracy"], content["model"]["accuracy"]) == (0.25, 0.75)
    assert (content["baseline"]["degeneration_rate"], content["baseline"]["answer_inclusive_error_rate"]) == (0.5, 0.25)
    assert (content["baseline"]["completion_tokens"], content["model"]["completion_tokens"]) == (37.5, 22.5)
    assert content["model"]["n"] == 4
    assert content["model"]["aes"] == pytest.approx(numbers["aes"])
    assert load_rollouts(tmp_path / "rollouts/baseline.parquet") == before
    assert load_rollouts(tmp_path / "rollouts/model.parquet") == after
    assert "accuracy" in capsys.readouterr().out


def test_report_of_a_model_alone(tmp_path: Path) -> None:
    numbers = write_report(Runs(generate_rollouts(Scripted([0]), QUESTIONS)), tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["baseline"] is None
    assert content["model"]["accuracy"] == numbers["accuracy"] == 0.25
    assert "ci95" in content["model"]
    assert not (tmp_path / "rollouts/baseline.parquet").exists()


def test_report_refuses_runs_on_other_questions(tmp_path: Path) -> None:
    model = Scripted()
    with pytest.raises(InputError, match="same questions"):
        write_report(Runs(generate_rollouts(model, QUESTIONS[:2]), generate_rollouts(model, QUESTIONS[1:3])), tmp_path)


def test_the_table_shows_both_answers_to_a_question() -> None:
    before = generate_rollouts(Scripted(lost=[0]), QUESTIONS)[::-1]
    after = generate_rollouts(Scripted([0]), QUESTIONS)
    columns, rows = rollout_table(before, after, limit=2)
    assert len(rows) == 2
    row = dict(zip(columns, rows[0], strict=True))
    assert row == {
        "id": "q0",
        "hops": 2,
        "question": "What is number 0?",
        "gold": "a0",
        "answer before": "x",
        "outcome before": "answer-inclusive error",
        "tokens before": 30,
        "trace before": "It is a0. Or not.",
        "answer after": "a0",
        "outcome after": "correct",
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
    write_report(
        Runs(generate_rollouts(Scripted([0]), QUESTIONS), generate_rollouts(Scripted(), QUESTIONS)),
        tmp_path,
        [logger],
        table_rows=3,
    )
    assert wandb.run is not None
    (table,) = Path(wandb.run.dir).glob("media/table/test/rollouts*.json")
    finish_wandb()
    content = json.loads(table.read_text())
    assert content["columns"][:4] == ["id", "hops", "question", "gold"]
    assert len(content["data"]) == 3
