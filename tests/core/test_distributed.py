from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from lightning.pytorch.strategies import FSDPStrategy, SingleDeviceStrategy
from torch.utils.data import DataLoader

from introspect.core.distributed import Mean, batches, check_whole, share
from introspect.core.errors import InputError


@given(count=st.integers(0, 60), size=st.integers(1, 7), replicas=st.integers(1, 5))
def test_every_item_is_in_one_batch_of_one_process(count: int, size: int, replicas: int) -> None:
    every = [batches(count, size, replicas, rank) for rank in range(replicas)]
    assert sorted(i for own in every for batch in own for i in batch) == list(range(count))
    assert len({len(own) for own in every}) == 1
    lengths = [len(batch) for own in every for batch in own]
    assert all(length <= size + 1 for length in lengths)
    if count >= replicas:
        assert all(lengths)


@given(count=st.integers(0, 20), replicas=st.integers(1, 5))
def test_shares_in_order_are_the_whole(count: int, replicas: int) -> None:
    items = list(range(count))
    assert [i for rank in range(replicas) for i in share(items, replicas, rank)] == items


def test_answers_want_whole_weights() -> None:
    check_whole(cast(Any, SimpleNamespace(strategy=SingleDeviceStrategy())))
    with pytest.raises(InputError, match=r"train with test=false .*then evaluate\.py ckpt_path="):
        check_whole(cast(Any, SimpleNamespace(strategy=FSDPStrategy())))


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
