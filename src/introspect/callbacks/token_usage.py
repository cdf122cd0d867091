"""How many tokens the student has been trained on, and how fast."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from introspect.errors import InputError
from introspect.reasoning.batching import IGNORED


class TokenUsage(Callback):
    """Logs every training batch, summed over all devices.

    `train/tokens_seen`: tokens read since the training began, without padding. `train/supervised_tokens`: those among
    them that the loss was computed on. `perf/tokens_per_second`: tokens read per second of training; validation does
    not count. A resumed run goes on counting where it stopped.

    Batches are mappings with `attention_mask` [b, s], 1 on tokens, and `labels` [b, s], -100 where not supervised; or
    packed ones, with `group` [b, s], -1 on padding, and `target` [m]. A prompt that traces share is read once.
    """

    def __init__(self) -> None:
        self._counts = torch.zeros(2, dtype=torch.int64)  # seen, supervised
        self._clock: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._clock = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again: validation is no training."""
        self._clock = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch and log.

        Raises:
            InputError: the batch has no attention mask and labels.
        """
        counts = _counts(batch)
        counts = trainer.strategy.reduce(counts, reduce_op="sum")
        # On the device, so that counting does not wait for it.
        self._counts = self._counts.to(counts.device) + counts
        seen, trained = self._counts if counts.device.type == "mps" else self._counts.double()
        pl_module.log("train/tokens_seen", seen)
        pl_module.log("train/supervised_tokens", trained)
        now = time.monotonic()
        if self._clock is not None and now > self._clock:
            pl_module.log("perf/tokens_per_second", counts[0] / (now - self._clock))
        self._clock = now

    def state_dict(self) -> dict[str, Any]:
        """The counts, for a checkpoint."""
        seen, supervised = self._counts.tolist()
        return {"tokens_seen": seen, "supervised_tokens": supervised}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._counts = torch.tensor([state_dict["tokens_seen"], state_dict["supervised_tokens"]])


def _counts(batch: Any) -> Tensor:
    """[2]: tokens read, tokens supervised."""
    names = set(batch.keys()) if hasattr(batch, "keys") else set()
    if {"group", "target"} <= names:
        read = (batch["group"] >= 0).sum()
        return torch.stack([read, read.new_tensor(len(batch["target"]))])
    if not {"attention_mask", "labels"} <= names:
        raise InputError("callbacks.token_usage counts tokens, but batches have no attention_mask and labels")
    # The first token is never predicted.
    return torch.stack([batch["attention_mask"].sum(), (batch["labels"][:, 1:] != IGNORED).sum()])
