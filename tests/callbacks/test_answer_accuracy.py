"""Rollouts while training: on the validation questions, at the epochs that are wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from introspect.benchmarks.examples import MultiHopExample
from introspect.callbacks.answer_accuracy import AnswerAccuracy
from introspect.core.errors import InputError
from tests.chat.asking import Scripted, question


class Questions(LightningDataModule):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([torch.zeros(1)])  # type: ignore[arg-type]

    def examples(self, split: str) -> list[MultiHopExample]:
        assert split == "validation"
        return [question(n) for n in range(self.size)]


class Learner(LightningModule):
    """Answers one more question after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.asked: list[int] = []
        self.logged: list[dict[str, float]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        assert self.training
        return self.layer(batch).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def chat_model(self, **options: Any) -> Scripted:
        model = Scripted(range(self.current_epoch + 1), endless=[9])
        self.models = [*getattr(self, "models", []), model]
        return model

    def on_fit_end(self) -> None:
        self.asked = [model.asked for model in self.models]


def fit(
    folder: Path, callback: AnswerAccuracy, size: int = 10, epochs: int = 3, **options: Any
) -> tuple[Trainer, Learner]:
    module = Learner()
    module.models = []
    checkpoint = ModelCheckpoint(folder, monitor="val/accuracy", mode="max", filename="{epoch}")
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[callback, checkpoint] if options.get("enable_checkpointing", True) else [callback],
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, Questions(size))
    return trainer, module


def test_measures_and_a_checkpoint_can_be_chosen_by_it(tmp_path: Path) -> None:
    trainer, module = fit(tmp_path, AnswerAccuracy(questions=10))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert metrics["val/accuracy"] == pytest.approx(0.3)
    assert metrics["val/degeneration_rate"] == pytest.approx(0.1)
    assert metrics["val/completion_tokens"] == pytest.approx((3 * 20 + 6 * 30 + 50) / 10)
    assert module.asked == [10, 10, 10]
    assert trainer.checkpoint_callback.best_model_score == pytest.approx(0.3)  # type: ignore[union-attr]


def test_only_some_questions_and_epochs(tmp_path: Path) -> None:
    _, module = fit(tmp_path, AnswerAccuracy(questions=2, every_n_epochs=3))
    assert module.asked == [2]


def test_a_trial_run_asks_little(tmp_path: Path) -> None:
    _, module = fit(tmp_path, AnswerAccuracy(questions=10), fast_dev_run=True)
    assert module.asked == [2]


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_measured_without_questions(tmp_path: Path) -> None:
    trainer, module = fit(tmp_path, AnswerAccuracy(), size=0, epochs=1, enable_checkpointing=False)
    assert "val/accuracy" not in trainer.callback_metrics
    assert module.asked == []


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="every_n_epochs is 0"):
        AnswerAccuracy(every_n_epochs=0)
