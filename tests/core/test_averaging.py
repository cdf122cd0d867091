"""Means that keep their digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from torch.utils.data import DataLoader

from introspect.core.averaging import Mean

VALUES = [1 + index / 1000 for index in range(300)]


class Averages(BoringModel):
    """Validates on as many batches as there are values."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = Mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.mean(torch.tensor(VALUES[batch_idx], dtype=torch.float32), weight=152)
        self.log("val/loss", self.mean)

    def val_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(RandomDataset(32, len(VALUES)))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_sums_keep_their_digits_in_modules_of_16_bits(tmp_path: Path, precision: Any) -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", precision=precision, default_root_dir=tmp_path, **quiet)
    module = Averages()
    for _ in range(2):  # the second begins from a reset
        found = trainer.validate(module, verbose=False)[0]["val/loss"]
        assert found == pytest.approx(sum(VALUES) / len(VALUES), rel=1e-6)


def test_sums_move_with_their_module() -> None:
    module = Averages().to("meta", torch.bfloat16)
    assert (module.mean.weight.device.type, module.mean.weight.dtype) == ("meta", torch.float32)
