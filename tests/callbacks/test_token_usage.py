"""Tokens are counted exactly, without padding, and counting goes on after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from introspect.callbacks.token_usage import TokenUsage, training_flops
from introspect.core.errors import InputError

# Two batches: 4 + 2 tokens of which 2 + 1 are supervised, and 3 + 3 of which 2 + 0 are: -100 is not supervised, and the
# first token is never predicted.
BATCHES: list[dict[str, Tensor]] = [
    {
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
        "labels": torch.tensor([[-100, -100, 5, 6], [-100, 7, -100, -100]]),
    },
    {
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 1]]),
        "labels": torch.tensor([[4, 5, 6], [4, -100, -100]]),
    },
]
SEEN, SUPERVISED = 12, 5


class Nothing(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.logged: list[dict[str, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.layer(torch.ones(1)).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_epoch_end(self) -> None:
        self.logged.append({name: float(value) for name, value in self.trainer.callback_metrics.items()})


def fit(folder: Path, usage: TokenUsage, epochs: int, ckpt_path: Path | None = None) -> tuple[Trainer, Nothing]:
    module = Nothing()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[usage],
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches: Any = DataLoader(BATCHES, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, batches, ckpt_path=ckpt_path, weights_only=True)
    return trainer, module


def test_counts_are_exact(tmp_path: Path) -> None:
    usage = TokenUsage()
    _, module = fit(tmp_path, usage, epochs=2)
    assert [(m["train/tokens_seen"], m["train/supervised_tokens"]) for m in module.logged] == [
        (SEEN, SUPERVISED),
        (2 * SEEN, 2 * SUPERVISED),
    ]
    assert module.logged[-1]["perf/tokens_per_second"] > 0


def test_counting_goes_on_after_a_restart(tmp_path: Path) -> None:
    trainer, _ = fit(tmp_path, TokenUsage(), epochs=1)
    checkpoint = tmp_path / "x.ckpt"
    trainer.save_checkpoint(checkpoint)
    usage = TokenUsage()
    fit(tmp_path, usage, epochs=2, ckpt_path=checkpoint)
    assert usage.state_dict() == {"tokens_seen": 2 * SEEN, "supervised_tokens": 2 * SUPERVISED}


def test_large_counts_do_not_lose_single_tokens(tmp_path: Path) -> None:
    usage = TokenUsage()
    start = 2**24 + 1  # the first whole number that single precision does not know
    usage.load_state_dict({"tokens_seen": start, "supervised_tokens": start})
    _, module = fit(tmp_path, usage, epochs=1)
    assert module.logged[-1]["train/tokens_seen"] == start + SEEN


def test_batches_of_another_kind_are_refused(tmp_path: Path) -> None:
    usage = TokenUsage()
    with pytest.raises(InputError, match="attention_mask"):
        usage.on_train_batch_end(None, Nothing(), None, [torch.ones(1)], 0)  # type: ignore[arg-type]


def test_flops_are_those_of_the_products_with_weights() -> None:
    """4 weights trained, 6 frozen, and an output embedding of 8 trained ones at supervised tokens."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.norm = nn.Embedding(4, 2), nn.LayerNorm(2)
            self.body, self.frozen, self.head = nn.Linear(2, 2), nn.Linear(2, 3).requires_grad_(False), nn.Linear(2, 4)

        def get_output_embeddings(self) -> nn.Module:
            return self.head

    assert training_flops(Network()) == (4 * 6 + 6 * 4, 8 * 6)


def test_utilisation_is_what_is_needed_of_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from introspect.callbacks import token_usage

    monkeypatch.setattr(token_usage, "_peak_flops", lambda trainer: 1e6)
    monkeypatch.setattr(token_usage, "training_flops", lambda network: (100.0, 0.0))
    monkeypatch.setattr(Nothing, "network", nn.Identity(), raising=False)
    _, module = fit(tmp_path, TokenUsage(), epochs=1)
    last = module.logged[-1]
    assert last["perf/mfu"] == pytest.approx(last["perf/tokens_per_second"] * 100 / 1e6)
    monkeypatch.undo()
    _, plain = fit(tmp_path, TokenUsage(), epochs=1)
    assert "perf/mfu" not in plain.logged[-1]
