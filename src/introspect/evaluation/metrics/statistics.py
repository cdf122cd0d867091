"""Numbers of a run as functions of how often each question counts.

Every reported number is a `Statistic`. With each question counted once it is the number itself; with the questions
counted as often as a bootstrap drew them it is a replicate. One definition serves both, so they cannot disagree.

Shapes: q questions, n rollouts, b weightings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from introspect.evaluation.metrics.trace import goodman_kruskal_gamma


class Statistic(Protocol):
    """A number of a run, for any weighting of its questions."""

    def estimate(self, weights: Tensor) -> Tensor:
        """Weights [b, q], float64 whole numbers, to one value per weighting [b]; nan where it is undefined."""
        ...


@dataclass(frozen=True, slots=True)
class Ratio:
    """A sum over the rollouts of all questions divided by another: means, shares, rates.

    `numerator` and `denominator` are float64 sums per question [q].
    """

    numerator: Tensor
    denominator: Tensor

    def estimate(self, weights: Tensor) -> Tensor:
        """See `Statistic.estimate`; undefined where the denominator is 0."""
        return (weights @ self.numerator) / (weights @ self.denominator)


@dataclass(frozen=True, slots=True)
class Quotient:
    """A statistic divided by another, times a constant."""

    top: Statistic
    bottom: Statistic
    factor: float = 1.0

    def estimate(self, weights: Tensor) -> Tensor:
        """See `Statistic.estimate`; undefined where the bottom is 0."""
        bottom = self.bottom.estimate(weights)
        return torch.where(bottom == 0, torch.nan, self.factor * self.top.estimate(weights) / bottom)


@dataclass(frozen=True, slots=True)
class Gamma:
    """Goodman-Kruskal gamma of two numbers of each rollout.

    `x`, `y` [n] are the numbers, `question` [n] the question of each rollout.
    """

    x: Tensor
    y: Tensor
    question: Tensor

    def estimate(self, weights: Tensor) -> Tensor:
        """See `Statistic.estimate`; each rollout counts as often as its question."""
        return goodman_kruskal_gamma(self.x, self.y, weights[:, self.question])


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile over the rollouts, linear between neighbours (NumPy's default).

    `values` [n] is float64 and ascending, `question` [n] the question of each value, `level` in [0, 1].
    """

    values: Tensor
    question: Tensor
    level: float

    def estimate(self, weights: Tensor) -> Tensor:
        """See `Statistic.estimate`; each value counts as often as its question."""
        seen = weights[:, self.question].cumsum(dim=1)  # [b, n]: how many values lie up to here
        rank = self.level * (seen[:, -1:] - 1)  # [b, 1]: from 0, between two whole ranks
        ends = torch.cat([rank.floor(), rank.ceil()], dim=1)  # [b, 2]
        low, high = self.values[torch.searchsorted(seen, ends, right=True)].unbind(dim=1)
        return torch.lerp(low, high, rank.squeeze(1).frac())


def point_estimates(statistics: Mapping[str, Statistic], questions: int) -> dict[str, Tensor]:
    """Every statistic with each question counted once, as float64 scalars."""
    once = torch.ones(1, questions, dtype=torch.float64)
    return {name: statistic.estimate(once)[0] for name, statistic in statistics.items()}
