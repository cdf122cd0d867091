"""The base of every metric that is a mean, or a count, of one number per rollout."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from introspect.core.errors import InputError
from introspect.evaluation.rollouts import Rollout

NO_ROLLOUTS = "no rollouts were given: there is nothing to score"


class RolloutMean(Metric):
    """Mean of `score` over the rollouts that it applies to.

    The state is two sums and a count, so batches and ranks merge exactly. `compute` returns a float64 scalar: nan when
    rollouts were given but the score applies to none of them.

    Raises:
        InputError: `compute` before any rollout was given.
    """

    full_state_update = False
    is_differentiable = False

    total: Tensor
    applicable: Tensor
    rollouts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("applicable", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("rollouts", torch.tensor(0), dist_reduce_fx="sum")

    @staticmethod
    @abstractmethod
    def score(rollout: Rollout) -> float | None:
        """The number that is averaged; None for a rollout outside the population that the metric speaks of."""

    def update(self, rollouts: Sequence[Rollout]) -> None:
        """Take in rollouts; the order does not matter."""
        scores = [score for rollout in rollouts if (score := self.score(rollout)) is not None]
        self.total = self.total + sum(scores)
        self.applicable = self.applicable + len(scores)
        self.rollouts = self.rollouts + len(rollouts)

    def compute(self) -> Tensor:
        """The mean over everything seen since the last reset."""
        if not self.rollouts:
            raise InputError(NO_ROLLOUTS)
        return self.total / self.applicable


class RolloutCount(RolloutMean):
    """Sum of `score`, for scores that are 0 or 1: how many rollouts it holds for."""

    def compute(self) -> Tensor:
        """The number of rollouts seen since the last reset for which the score is 1."""
        if not self.rollouts:
            raise InputError(NO_ROLLOUTS)
        return self.total
