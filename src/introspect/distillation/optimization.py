"""How classifiers are optimised: SGD, and a learning rate that falls at shares of the training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn


def sgd(
    parameters: Iterable[nn.Parameter],
    total: int,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    milestones: Sequence[float],
    gamma: float = 0.1,
    warmup_steps: int = 0,
) -> dict[str, Any]:
    """SGD with momentum and its schedule, in the form of Lightning's `configure_optimizers`.

    Args:
        parameters: what is trained.
        total: optimizer steps of the training.
        lr, momentum, weight_decay, milestones, gamma, warmup_steps: see `Distillation`.
    """
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return float((step + 1) / warmup_steps)
        passed = sum(step >= round(share * total) for share in milestones)
        return float(gamma**passed)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}
