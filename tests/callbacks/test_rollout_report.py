"""The report after the test: files, a table, and numbers that every logger gets."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from introspect.benchmarks.examples import MultiHopExample
from introspect.callbacks.rollout_report import RolloutReport
from introspect.chat.protocol import ChatFailure
from introspect.chat.remote.openai import OpenAIChat
from introspect.chat.remote.vllm_server import VLLMServer
from introspect.chat.store import ResponseStore
from introspect.core.errors import InputError
from introspect.evaluation.generation import generate_rollouts
from introspect.evaluation.judging.running import Judging
from introspect.evaluation.runs import Runs
from introspect.oracle.judge import OracleJudge
from tests.chat.asking import Scripted, question

QUESTIONS = [question(n) for n in range(4)]


class Tested(LightningModule):
    """Answers half of the questions; its baseline answers none."""

    def __init__(self, has_baseline: bool = True) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.test_runs = Runs(baseline=() if has_baseline else None)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch

    def test_step(self, batch: list[MultiHopExample], batch_idx: int) -> None:
        baseline = None if self.test_runs.baseline is None else generate_rollouts(Scripted(endless=[3]), batch)
        answered = Runs(generate_rollouts(Scripted([0, 1]), batch), baseline)
        self.test_runs = Runs.merge([self.test_runs, answered])


class Questions(LightningDataModule):
    """Serves questions, and has their items for a judge."""

    def __init__(self, questions: list[MultiHopExample]) -> None:
        super().__init__()
        self.questions = questions

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.questions, batch_size=2, collate_fn=list)  # type: ignore[arg-type]

    def examples(self, split: str) -> list[MultiHopExample]:
        assert split == "test"
        return QUESTIONS


def run(
    folder: Path,
    module: LightningModule,
    questions: list[MultiHopExample] = QUESTIONS,
    judging: Judging | None = None,
) -> dict[str, Any]:
    trainer = Trainer(
        accelerator="cpu",
        logger=CSVLogger(folder, name="csv"),
        callbacks=[RolloutReport(folder=folder, judging=judging)],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.test(module, Questions(questions), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_reports_the_student_beside_its_baseline(tmp_path: Path) -> None:
    metrics = run(tmp_path, Tested())
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["model"]["accuracy"] == metrics["test/accuracy"] == 0.5
    assert content["baseline"]["degeneration_rate"] == metrics["test/baseline/degeneration_rate"] == 0.25
    assert metrics["test/n"] == 4
    assert "test/aes" in metrics
    (row,) = csv.DictReader((tmp_path / "csv/version_0/metrics.csv").open())
    assert float(row["test/accuracy"]) == 0.5


def test_both_are_judged(tmp_path: Path) -> None:
    metrics = run(tmp_path, Tested(), judging=Judging(judge=OracleJudge(), store=tmp_path / "store.sqlite"))
    assert metrics["test/judge_accuracy"] == 0.5
    assert metrics["test/baseline/judge_accuracy"] == 0
    assert metrics["test/judge_unparsed"] == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["judge"]["identity"]["model"] == "oracle-judge"
    with ResponseStore(tmp_path / "store.sqlite") as store:
        assert len(store) > 4


class Broken(OracleJudge):
    """Fails, and holds something."""

    is_closed = False

    def generate(self, requests: Any) -> Any:
        return (ChatFailure(request.id, "refused") for request in requests)

    def close(self) -> None:
        self.is_closed = True


def test_a_judge_that_fails_costs_no_rollout(tmp_path: Path) -> None:
    judge = Broken()
    with pytest.raises(InputError, match="more than max_failure_rate"):
        run(tmp_path, Tested(), judging=Judging(judge=judge))
    assert judge.is_closed
    saved = Runs.load(tmp_path)
    assert saved.baseline is not None
    assert len(saved.model) == len(saved.baseline) == 4


def test_a_judge_that_every_process_would_start_is_refused_at_once() -> None:
    judge = OpenAIChat("big", server=VLLMServer("big"))
    report = RolloutReport(folder="x", judging=Judging(judge=judge))
    alone, four = (cast(Trainer, SimpleNamespace(world_size=size)) for size in (1, 4))
    report.setup(alone, Tested(), "fit")
    with pytest.raises(InputError, match=r"each of 4 processes would start a server: give judge\.base_url="):
        report.setup(four, Tested(), "fit")
    running = OpenAIChat("big", server=VLLMServer("big"), base_url="http://h/v1")
    RolloutReport(folder="x", judging=Judging(judge=running)).setup(four, Tested(), "fit")
    RolloutReport(folder="x").setup(four, Tested(), "fit")


def test_requests_that_failed_are_reported(tmp_path: Path) -> None:
    module = Tested()
    module.test_runs = Runs(baseline=(), model_failed=2, baseline_failed=1)
    metrics = run(tmp_path, module)
    assert (metrics["test/baseline/failed"], metrics["test/failed"]) == (1, 2)


def test_reports_a_student_without_baseline(tmp_path: Path) -> None:
    metrics = run(tmp_path, Tested(has_baseline=False))
    assert metrics["test/accuracy"] == 0.5
    assert not any(name.startswith("test/baseline") for name in metrics)


def test_a_question_that_came_twice_counts_once(tmp_path: Path) -> None:
    assert run(tmp_path, Tested(), [*QUESTIONS, QUESTIONS[0], QUESTIONS[1]])["test/n"] == 4
