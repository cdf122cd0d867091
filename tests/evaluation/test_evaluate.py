"""What evaluate.py does with folders, checkpoints and saved rollouts."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hydra.utils import instantiate

from introspect.chat.local.transformers import TransformersChat
from introspect.chat.prompts import question_messages
from introspect.chat.protocol import ChatFailure, ChatModel, ChatRequest, Sampling
from introspect.chat.remote.openai import OpenAIChat
from introspect.core.errors import InputError
from introspect.evaluation.evaluate import evaluate
from introspect.evaluation.generation import generate_rollouts
from introspect.evaluation.judging.running import Judging
from introspect.evaluation.report import write_report
from introspect.evaluation.runs import Runs
from introspect.evaluation.students import base_of, open_model
from introspect.synthesis.published import export_rollouts
from introspect.synthesis.recipes import Published
from introspect.synthesis.recipes.base import Models
from introspect.tuning.student import load_student
from tests.chat.asking import Numbers, Scripted, question
from tests.chat.remote.serving import Serving
from tests.composing import compose_config
from tests.tuning.tiny import tiny_folder

QUESTIONS = [question(n) for n in range(4)]
SHORT = Sampling(max_tokens=4)


def on_cpu(batch_size: int = 32) -> partial[TransformersChat]:
    return partial(TransformersChat.from_pretrained, device="cpu", batch_size=batch_size, revision=None)


def test_rescoring_needs_no_model(tmp_path: Path) -> None:
    before, after = generate_rollouts(Scripted(), QUESTIONS), generate_rollouts(Scripted([0, 1]), QUESTIONS)
    write_report(Runs(after, before), tmp_path / "run")
    expected = json.loads((tmp_path / "run/metrics.json").read_text())
    settings = {"ckpt_path": None, "benchmark": Numbers(), "store": tmp_path / "store.sqlite"}
    metrics = evaluate(**settings, rescore=str(tmp_path / "run"), folder=tmp_path / "again")
    assert json.loads((tmp_path / "again/metrics.json").read_text()) == expected
    assert (metrics["test/accuracy"], metrics["test/baseline/accuracy"]) == (0.5, 0.0)
    alone = evaluate(**settings, rescore=str(tmp_path / "run/rollouts/model.parquet"), folder=tmp_path / "alone")
    assert alone["test/accuracy"] == 0.5
    assert "test/baseline/accuracy" not in alone
    assert not (tmp_path / "store.sqlite").exists()


def test_saved_runs_are_found_in_a_folder_or_named(tmp_path: Path) -> None:
    before, after = generate_rollouts(Scripted(), QUESTIONS), generate_rollouts(Scripted([0]), QUESTIONS)
    write_report(Runs(after, before), tmp_path)
    for model in (tmp_path, tmp_path / "rollouts"):
        assert Runs.load(model) == Runs(after, before)
    named = Runs.load(tmp_path / "rollouts/model.parquet", tmp_path / "rollouts/baseline.parquet")
    assert named == Runs(after, before)
    assert Runs.load(tmp_path, None) == Runs(after)
    write_report(Runs(before), tmp_path / "other")
    assert Runs.load(tmp_path / "other", tmp_path) == Runs(before, after)
    with pytest.raises(InputError, match="no such file of rollouts"):
        Runs.load(tmp_path / "nothing.parquet")


def test_something_must_be_measured(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ckpt_path is required"):
        evaluate(ckpt_path=None, benchmark=Numbers(), folder=tmp_path, store=tmp_path / "s")
    with pytest.raises(InputError, match="numbers: there are no test questions"):
        evaluate(ckpt_path="x", benchmark=Numbers(0), folder=tmp_path, store=tmp_path / "s")


def test_a_folder_beside_another(tmp_path: Path) -> None:
    first, second = (tiny_folder(tmp_path / f"m{seed}", seed=seed) for seed in (0, 1))
    metrics = evaluate(
        ckpt_path=str(first),
        baseline=str(second),
        benchmark=Numbers(),
        questions=2,
        samples=2,
        sampling=SHORT,
        folder=tmp_path / "run",
        store=tmp_path / "store.sqlite",
        engine=on_cpu(2),
    )
    assert metrics["test/n"] == metrics["test/baseline/n"] == 4
    assert len(Runs.load(tmp_path / "run").model) == 4


def test_a_student_is_told_how_to_think_beside_itself_asked_plainly(tmp_path: Path) -> None:
    metrics = evaluate(
        ckpt_path=str(tiny_folder(tmp_path / "m")),
        benchmark=Numbers(),
        questions=3,
        sampling=SHORT,
        prompt="metacognitive",
        folder=tmp_path / "run",
        store=tmp_path / "store.sqlite",
        engine=on_cpu(3),
    )
    assert metrics["test/n"] == metrics["test/baseline/n"] == 3
    asked = sqlite3.connect(tmp_path / "store.sqlite").execute("SELECT request FROM responses").fetchall()
    roles = Counter(tuple(message["role"] for message in json.loads(row)["messages"]) for (row,) in asked)
    assert roles == {("system", "user"): 3, ("user",): 3}


def test_rollouts_are_exported_as_training_data(tmp_path: Path) -> None:
    write_report(Runs(generate_rollouts(Scripted([0, 1], endless=[2]), QUESTIONS)), tmp_path / "run")
    evaluate(
        ckpt_path=None,
        rescore=str(tmp_path / "run"),
        benchmark=Numbers(),
        split="train",
        folder=tmp_path / "again",
        store=tmp_path / "s",
        export=tmp_path / "out",
        export_rollouts=export_rollouts,
    )
    made = Published(source=tmp_path / "out/data/train-00000-of-00001.parquet").synthesize(
        [], Models(Scripted(), Scripted())
    )
    assert [trace.example_id for trace in made.traces] == ["q0", "q1"]
    assert made.traces[1].messages == question_messages(QUESTIONS[1])
    assert made.traces[1].target == "<think>\nIt is a1.\n</think>\n\n<answer>a1</answer>"
    assert made.rejections == {"invalid": 1, "wrong": 1}
    assert "- data: numbers" in (tmp_path / "out/README.md").read_text()


def test_an_unknown_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^evaluation.prompt is 'x', expected plain or metacognitive$"):
        evaluate(ckpt_path="x", benchmark=Numbers(), folder=tmp_path, store=tmp_path / "s", prompt="x")  # type: ignore[arg-type]


def test_a_model_without_known_origin_stands_alone(tmp_path: Path) -> None:
    opened = open_model(str(tiny_folder(tmp_path / "m")), on_cpu())
    assert opened.base is None


def test_an_unknown_baseline_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = str(tiny_folder(tmp_path / "m"))
    metrics = evaluate(
        ckpt_path=model,
        benchmark=Numbers(),
        questions=1,
        sampling=SHORT,
        folder=tmp_path / "run",
        store=tmp_path / "store.sqlite",
        engine=on_cpu(),
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

    from introspect.tuning.student import ReasoningStudent

    folder = tiny_folder(tmp_path / "base")
    student = ReasoningStudent(model=str(folder))
    student.configure_model()
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    trainer.strategy.connect(student)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    opened = open_model(str(tmp_path / "x.ckpt"), on_cpu(2), load_student)
    assert opened.base == str(folder)
    (after,) = generate_rollouts(opened.model, QUESTIONS[:1], sampling=SHORT)
    (before,) = generate_rollouts(open_model(str(folder), on_cpu()).model, QUESTIONS[:1], sampling=SHORT)
    assert after == before


def test_a_checkpoint_is_run_by_transformers_alone(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match="only engine=transformers runs a checkpoint"):
        open_model(str(tmp_path / "x.ckpt"), partial(OpenAIChat.engine, "m", base_url="http://h/v1"))


def test_a_server_runs_the_student_and_its_baseline(tmp_path: Path) -> None:
    overrides = ["engine=openai", "engine.retry.base_s=0.01", "ckpt_path=tuned", "baseline=untuned", "judge=none"]
    with Serving(style="reasoning") as server:
        cfg = compose_config("evaluate", [*overrides, f"engine.base_url={server.url}", "data.sizes.test=3"], tmp_path)
        metrics = instantiate(cfg.evaluation)()
        asked = Counter(body["model"] for body in server.app.bodies)
    assert asked == {"tuned": 3, "untuned": 3}
    assert (metrics["test/n"], metrics["test/baseline/n"], metrics["test/completion_tokens"]) == (3, 3, 20)


def test_a_servers_name_is_no_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student/README.md").write_text("base_model: org/name\n")
    monkeypatch.chdir(tmp_path)
    assert open_model("student", partial(OpenAIChat.engine, "m", base_url="http://h/v1")).base is None


@pytest.mark.parametrize(
    ("engine", "made_by"), [("transformers", "TransformersChat.from_pretrained"), ("vllm", "serve")]
)
def test_every_engine_is_offered(engine: str, made_by: str, tmp_path: Path) -> None:
    options = [f"engine={engine}", "engine.batch_size=7", "model.revision=abc", "ckpt_path=org/name"]
    made = instantiate(compose_config("evaluate", options, tmp_path).evaluation).keywords["engine"]
    assert (made.keywords["name_or_path"], made.keywords["revision"]) == ("org/name", "abc")
    assert made.keywords["batch_size"] == 7
    assert made.func.__qualname__ == made_by


def test_a_revision_is_that_of_the_student(tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    def scripted(name_or_path: str, revision: str | None) -> Scripted:
        asked.append((name_or_path, revision))
        return Scripted(name=name_or_path)

    settings = {"benchmark": Numbers(), "store": tmp_path / "store.sqlite", "folder": tmp_path / "run"}
    evaluate(ckpt_path="tuned", baseline="base", engine=partial(scripted, revision="abc"), **settings)
    evaluate(ckpt_path="tuned", baseline="tuned", engine=partial(scripted, revision="abc"), **settings)
    assert asked == [("tuned", "abc"), ("base", None), ("tuned", "abc"), ("tuned", "abc")]


class Broken(ChatModel):
    """A judge that fails, and holds something."""

    identity = {"model": "broken"}  # noqa: RUF012

    def __init__(self) -> None:
        self.is_closed = False

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatFailure]:
        return (ChatFailure(request.id, "refused") for request in requests)

    def close(self) -> None:
        self.is_closed = True


def test_a_judge_that_fails_costs_no_rollout(tmp_path: Path) -> None:
    judge, run = Broken(), tmp_path / "run"
    with pytest.raises(InputError, match="more than max_failure_rate"):
        evaluate(
            ckpt_path="m",
            baseline="b",
            engine=lambda name_or_path: Scripted([0], name=name_or_path),
            benchmark=Numbers(),
            folder=run,
            store=tmp_path / "store.sqlite",
            judging=Judging(judge=judge, scores=["correctness"]),
        )
    assert judge.is_closed
    saved = Runs.load(run)
    assert saved.baseline is not None
    assert len(saved.model) == len(saved.baseline) == 4
