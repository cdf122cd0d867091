"""What evaluate.py does with folders, checkpoints and saved rollouts."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from introspect.errors import InputError
from introspect.reasoning.chat import Sampling
from introspect.reasoning.evaluation import report, rollout
from introspect.reasoning.measure import base_of, measure, open_model, saved_runs
from introspect.reasoning.prompts import question_messages
from introspect.reasoning.recipes import Published
from tests.reasoning.asking import Numbers, Scripted, question
from tests.reasoning.tiny import tiny_folder

QUESTIONS = [question(n) for n in range(4)]
SHORT = Sampling(max_tokens=4)


def test_rescoring_needs_no_model(tmp_path: Path) -> None:
    before, after = rollout(Scripted(), QUESTIONS), rollout(Scripted([0, 1]), QUESTIONS)
    report(before, after, tmp_path / "run")
    expected = json.loads((tmp_path / "run/metrics.json").read_text())
    settings = {"ckpt_path": None, "benchmark": Numbers(), "store": tmp_path / "store.sqlite"}
    metrics = measure(**settings, rescore=str(tmp_path / "run"), folder=tmp_path / "again")
    assert json.loads((tmp_path / "again/metrics.json").read_text()) == expected
    assert (metrics["test/accuracy"], metrics["test/baseline/accuracy"]) == (0.5, 0.0)
    alone = measure(**settings, rescore=str(tmp_path / "run/rollouts/model.parquet"), folder=tmp_path / "alone")
    assert alone["test/accuracy"] == 0.5
    assert "test/baseline/accuracy" not in alone
    assert not (tmp_path / "store.sqlite").exists()


def test_saved_runs_are_found_in_a_folder_or_named(tmp_path: Path) -> None:
    before, after = rollout(Scripted(), QUESTIONS), rollout(Scripted([0]), QUESTIONS)
    report(before, after, tmp_path)
    for model in (tmp_path, tmp_path / "rollouts"):
        assert saved_runs(model) == (before, after)
    named = saved_runs(tmp_path / "rollouts/model.parquet", tmp_path / "rollouts/baseline.parquet")
    assert named == (before, after)
    assert saved_runs(tmp_path, None) == (None, after)
    report(None, before, tmp_path / "other")
    assert saved_runs(tmp_path / "other", tmp_path) == (after, before)
    with pytest.raises(InputError, match="no such file of rollouts"):
        saved_runs(tmp_path / "nothing.parquet")


def test_something_must_be_measured(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ckpt_path is required"):
        measure(ckpt_path=None, benchmark=Numbers(), folder=tmp_path, store=tmp_path / "s")
    with pytest.raises(InputError, match="numbers: there are no test questions"):
        measure(ckpt_path="x", benchmark=Numbers(0), folder=tmp_path, store=tmp_path / "s")


def test_a_folder_beside_another(tmp_path: Path) -> None:
    first, second = (tiny_folder(tmp_path / f"m{seed}", seed=seed) for seed in (0, 1))
    metrics = measure(
        ckpt_path=str(first),
        baseline=str(second),
        benchmark=Numbers(),
        questions=2,
        samples=2,
        sampling=SHORT,
        folder=tmp_path / "run",
        store=tmp_path / "store.sqlite",
        engine={"batch_size": 2, "device": "cpu"},
    )
    assert metrics["test/n"] == metrics["test/baseline/n"] == 4
    assert len(saved_runs(tmp_path / "run").model) == 4


def test_a_student_is_told_how_to_think_beside_itself_asked_plainly(tmp_path: Path) -> None:
    metrics = measure(
        ckpt_path=str(tiny_folder(tmp_path / "m")),
        benchmark=Numbers(),
        questions=3,
        sampling=SHORT,
        prompt="metacognitive",
        folder=tmp_path / "run",
        store=tmp_path / "store.sqlite",
        engine={"batch_size": 3, "device": "cpu"},
    )
    assert metrics["test/n"] == metrics["test/baseline/n"] == 3
    asked = sqlite3.connect(tmp_path / "store.sqlite").execute("SELECT request FROM responses").fetchall()
    roles = Counter(tuple(message["role"] for message in json.loads(row)["messages"]) for (row,) in asked)
    assert roles == {("system", "user"): 3, ("user",): 3}


def test_rollouts_are_exported_as_training_data(tmp_path: Path) -> None:
    report(None, rollout(Scripted([0, 1], endless=[2]), QUESTIONS), tmp_path / "run")
    measure(
        ckpt_path=None,
        rescore=str(tmp_path / "run"),
        benchmark=Numbers(),
        split="train",
        folder=tmp_path / "again",
        store=tmp_path / "s",
        export=tmp_path / "out",
    )
    made = Published(source=tmp_path / "out/data/train-00000-of-00001.parquet").synthesize([], Scripted(), Scripted())
    assert [trace.example_id for trace in made.traces] == ["q0", "q1"]
    assert made.traces[1].messages == question_messages(QUESTIONS[1])
    assert made.traces[1].target == "<think>\nIt is a1.\n</think>\n\n<answer>a1</answer>"
    assert made.rejections == {"invalid": 1, "wrong": 1}
    assert "- data: numbers" in (tmp_path / "out/README.md").read_text()


def test_an_unknown_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^evaluation.prompt is 'x', expected plain or metacognitive$"):
        measure(ckpt_path="x", benchmark=Numbers(), folder=tmp_path, store=tmp_path / "s", prompt="x")  # type: ignore[arg-type]


def test_a_model_without_known_origin_stands_alone(tmp_path: Path) -> None:
    opened = open_model(str(tiny_folder(tmp_path / "m")), {"device": "cpu"})
    assert opened.base is None


def test_an_unknown_baseline_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = str(tiny_folder(tmp_path / "m"))
    metrics = measure(
        ckpt_path=model,
        benchmark=Numbers(),
        questions=1,
        sampling=SHORT,
        folder=tmp_path / "run",
        store=tmp_path / "store.sqlite",
        engine={"device": "cpu"},
    )
    assert f"what {model} was tuned from is not known here: no baseline; give baseline=" in caplog.text
    assert "test/baseline/accuracy" not in metrics


@pytest.mark.parametrize(
    ("card", "base"),
    [
        ("---\nbase_model: Qwen/Qwen3-0.6B\ntags:\n---\n", "Qwen/Qwen3-0.6B"),
        ("# Model\n- base model: no_such_asset\n", None),
        ("# Model\n", None),
    ],
)
def test_the_origin_is_read_from_the_model_card(tmp_path: Path, card: str, base: str | None) -> None:
    (tmp_path / "README.md").write_text(card)
    assert base_of(tmp_path) == base


def test_a_checkpoint_knows_its_origin(tmp_path: Path) -> None:
    from lightning.pytorch import Trainer

    from introspect.reasoning.student import ReasoningStudent

    folder = tiny_folder(tmp_path / "base")
    student = ReasoningStudent(model=str(folder))
    student.configure_model()
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    trainer.strategy.connect(student)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    opened = open_model(str(tmp_path / "x.ckpt"), {"device": "cpu", "batch_size": 2})
    assert opened.base == str(folder)
    (after,) = rollout(opened.model, QUESTIONS[:1], sampling=SHORT)
    (before,) = rollout(open_model(str(folder), {"device": "cpu"}).model, QUESTIONS[:1], sampling=SHORT)
    assert after == before
