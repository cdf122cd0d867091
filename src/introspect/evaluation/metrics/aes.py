"""Accuracy-efficiency score: one number for the gain in accuracy and the tokens saved against a baseline."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from introspect.core.errors import InputError
from introspect.evaluation.metrics.answers import ExactMatch
from introspect.evaluation.metrics.mean import NO_ROLLOUTS
from introspect.evaluation.rollouts import Rollout


def accuracy_efficiency_scores(
    accuracy: Tensor,
    tokens: Tensor,
    base_accuracy: Tensor,
    base_tokens: Tensor,
    alpha: float = 1.0,
    beta: float = 3.0,
    gamma: float = 5.0,
) -> Tensor:
    """`accuracy_efficiency_score` for tensors of one shape."""
    saved = (base_tokens - tokens) / base_tokens
    gained = (accuracy - base_accuracy) / base_accuracy
    score = alpha * saved + torch.where(gained >= 0, beta, gamma) * gained
    return torch.where((base_accuracy > 0) & (base_tokens > 0), score, torch.nan)


def accuracy_efficiency_score(
    accuracy: float,
    tokens: float,
    base_accuracy: float,
    base_tokens: float,
    alpha: float = 1.0,
    beta: float = 3.0,
    gamma: float = 5.0,
) -> float:
    """AES of a model against a baseline (O1-Pruner, arXiv 2501.12570).

    alpha times the share of tokens saved, plus beta times a relative gain in accuracy or minus gamma times a relative
    loss. Both differences are relative to the baseline, so the baseline itself scores 0 and the unit of accuracy
    cancels out. nan where the baseline has no right answer or no tokens: nothing is relative to 0.
    """
    model, base = (
        torch.tensor(pair, dtype=torch.float64) for pair in ((accuracy, tokens), (base_accuracy, base_tokens))
    )
    return accuracy_efficiency_scores(model[0], model[1], base[0], base[1], alpha, beta, gamma).item()


class AccuracyEfficiencyScore(Metric):
    """AES of the rollouts against a baseline of known accuracy (exact match, in [0, 1]) and mean completion tokens.

    Raises:
        InputError: `compute` before any rollout was given.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    correct: Tensor
    tokens: Tensor
    rollouts: Tensor

    def __init__(
        self, base_accuracy: float, base_tokens: float, alpha: float = 1.0, beta: float = 3.0, gamma: float = 5.0
    ) -> None:
        super().__init__()
        self.base_accuracy, self.base_tokens = base_accuracy, base_tokens
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("tokens", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("rollouts", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, rollouts: Sequence[Rollout]) -> None:
        """Take in rollouts; the order does not matter."""
        self.correct = self.correct + int(sum(ExactMatch.score(rollout) for rollout in rollouts))
        self.tokens = self.tokens + sum(rollout.completion_tokens for rollout in rollouts)
        self.rollouts = self.rollouts + len(rollouts)

    def compute(self) -> Tensor:
        """AES of everything seen since the last reset, a float64 scalar."""
        if not self.rollouts:
            raise InputError(NO_ROLLOUTS)
        accuracy, tokens = self.correct.item() / self.rollouts.item(), self.tokens.item() / self.rollouts.item()
        base = (self.base_accuracy, self.base_tokens)
        score = accuracy_efficiency_score(accuracy, tokens, *base, self.alpha, self.beta, self.gamma)
        return torch.tensor(score, dtype=torch.float64)
