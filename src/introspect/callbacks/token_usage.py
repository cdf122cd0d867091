"""How many tokens the student is trained on, and the throughput."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from introspect.core.errors import InputError
from introspect.core.protocols import HasNetwork
from introspect.tuning.packing import IGNORED


class TokenUsage(Callback):
    """Logs every training batch, summed over all devices.

    `train/tokens_seen`: tokens read since the training began, without padding. `train/supervised_tokens`: those among
    them that the loss was computed on. `perf/tokens_per_second`: tokens read per second of training; validation does
    not count. `perf/mfu`, on GPUs whose peak is known to Lightning: the fraction of it that `training_flops` need.
    A resumed run goes on counting where it stopped.

    Batches are mappings with `attention_mask` [b, s], 1 on tokens, and `labels` [b, s], -100 where not supervised; or
    packed ones, with `group` [b, s], -1 on padding, and `target` [m]. A prompt that traces share is read once.
    """

    def __init__(self) -> None:
        self._counts = torch.zeros(2, dtype=torch.int64)  # seen, supervised
        self._clock: float | None = None
        self._flops: tuple[float, float] | None = None  # FLOPs per token, per supervised token; shares of the peak

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look up the peak of the devices."""
        peak = _peak_flops(trainer)
        if peak and isinstance(pl_module, HasNetwork):
            body, head = training_flops(pl_module.network)
            self._flops = body / peak, head / peak

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._clock = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again: validation does not count."""
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
            if self._flops is not None:
                needed = self._flops[0] * counts[0] + self._flops[1] * counts[1]
                pl_module.log("perf/mfu", needed / (now - self._clock))
        self._clock = now

    def state_dict(self) -> dict[str, Any]:
        """The counts, for a checkpoint."""
        seen, supervised = self._counts.tolist()
        return {"tokens_seen": seen, "supervised_tokens": supervised}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the counts of a checkpoint."""
        self._counts = torch.tensor([state_dict["tokens_seen"], state_dict["supervised_tokens"]])


def training_flops(network: Any) -> tuple[float, float]:
    """FLOPs of the products with weights in a training step: per token read, and beside it per supervised token.

    A weight that is trained costs 6 per token (2 forward, 4 backward), one that is frozen 4; the output embedding is
    applied to supervised tokens only. That is model FLOPs utilisation after Chowdhery et al., PaLM, arXiv 2204.02311,
    appendix B, but without the attention's own products: a lower bound. Activations that are computed twice count once.
    Experts that are no `nn.Linear` are not counted.
    """
    head = network.get_output_embeddings()
    cost = {
        module: module.weight.numel() * (6.0 if module.weight.requires_grad else 4.0)
        for module in network.modules()
        if isinstance(module, nn.Linear)
    }
    last = cost.pop(head, 0.0)
    return sum(cost.values()), last


def _peak_flops(trainer: Trainer) -> float:
    """Return the peak FLOPs per second of all devices in the number format of the training; 0 if it is not known."""
    device = trainer.strategy.root_device
    if device.type != "cuda":
        return 0.0
    precision = str(trainer.precision)
    dtype = torch.bfloat16 if "bf16" in precision else torch.float16 if "16" in precision else torch.float32
    return float(get_available_flops(device, dtype) or 0) * trainer.world_size


def _counts(batch: Any) -> Tensor:
    """Return the tokens that are read and the tokens that are supervised, [2]."""
    names = set(batch.keys()) if hasattr(batch, "keys") else set()
    if {"group", "target"} <= names:
        read = (batch["group"] >= 0).sum()
        return torch.stack([read, read.new_tensor(len(batch["target"]))])
    if not {"attention_mask", "labels"} <= names:
        raise InputError("callbacks.token_usage counts tokens, but batches have no attention_mask and labels")
    # The first token is never predicted.
    return torch.stack([batch["attention_mask"].sum(), (batch["labels"][:, 1:] != IGNORED).sum()])
