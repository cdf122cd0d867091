"""How a reasoning student is optimised: AdamW, and a learning rate that rises, then falls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import nn

Schedule = Literal["cosine", "linear", "constant"]


def adamw(
    matrices: Iterable[nn.Parameter],
    vectors: Iterable[nn.Parameter],
    total: int,
    *,
    lr: float,
    betas: Sequence[float],
    eps: float,
    weight_decay: float,
    warmup_ratio: float,
    schedule: Schedule,
    min_lr_ratio: float,
    fused: bool,
) -> dict[str, Any]:
    """AdamW and its schedule, in the form of Lightning's `configure_optimizers`.

    Args:
        matrices: of those that are trained.
        vectors: the others (norms, biases), which never decay.
        total: optimizer steps of the training.
        lr, betas, eps, weight_decay, warmup_ratio, schedule, min_lr_ratio: see `ReasoningStudent`.
        fused: whether a step is one kernel.
    """
    groups: list[dict[str, Any]] = [
        {"params": list(matrices), "weight_decay": weight_decay},
        {"params": list(vectors), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=fused
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, total, warmup_ratio, schedule, min_lr_ratio)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}


def lr_factor(step: int, total: int, warmup_ratio: float, schedule: Schedule, min_lr_ratio: float) -> float:
    """Return the fraction of the peak learning rate in optimizer step `step`, counted from 0, of `total`.

    It rises from 1/w to 1 in the w steps of the warm-up (no step is wasted on a rate of 0) and falls to `min_lr_ratio`
    at the end; `constant` does not fall.
    """
    warmup = math.ceil(warmup_ratio * total)
    if step < warmup:
        return (step + 1) / warmup
    done = min((step - warmup) / max(total - warmup, 1), 1.0)
    fall = {"cosine": (1 - math.cos(math.pi * done)) / 2, "linear": done, "constant": 0.0}[schedule]
    return 1 - (1 - min_lr_ratio) * fall
