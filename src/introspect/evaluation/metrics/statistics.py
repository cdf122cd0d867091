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
    """Compute every statistic with each question counted once, as float64 scalars."""
    once = torch.ones(1, questions, dtype=torch.float64)
    return {name: statistic.estimate(once)[0] for name, statistic in statistics.items()}


def goodman_kruskal_gamma(x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    """Rank association (Goodman & Kruskal 1954): (C - D) / (C + D) of C concordant and D discordant pairs.

    Pairs tied in x or y count as neither; nan without a pair of either kind. In [-1, 1].

    Pairs are counted bit by bit of the ranks of y, the highest first: two ranks that agree in all higher bits are
    ordered by this one. A pass over sorted data per bit: O(n log n) time, O(b n) memory.

    Args:
        x, y: [n] of any ordered kind, without nan.
        weights: [b, n], how often each point counts, for b weightings; None is once.

    Returns:
        float64 [b]; a scalar without weights.
    """
    if weights is None:
        return goodman_kruskal_gamma(x, y, torch.ones(1, len(x), dtype=torch.float64, device=x.device))[0]
    concordant = discordant = torch.zeros(len(weights), dtype=torch.float64, device=x.device)
    order = x.argsort(stable=True)  # positions, by (higher bits of the rank of y, x) in each pass
    place = x.unique(return_inverse=True)[1]
    rank = y.unique(return_inverse=True)[1]
    for bit in reversed(range(int(rank.max()).bit_length() if len(rank) else 0)):
        group, high = rank[order] >> (bit + 1), ((rank[order] >> bit) & 1).bool()
        weight = weights[:, order].double()
        start = _starts(group)  # of the group of each position
        run = _starts(torch.stack([group, place[order]]))  # of the points with the same group and x
        lower, upper = _before(weight * ~high), _before(weight * high)  # [b, n + 1]
        concordant = concordant + (weight * high * (lower[:, run] - lower[:, start])).sum(dim=1)
        discordant = discordant + (weight * ~high * (upper[:, run] - upper[:, start])).sum(dim=1)
        order = order[_partition(group, high)]
    return (concordant - discordant) / (concordant + discordant)


def _starts(keys: Tensor) -> Tensor:
    """For each of n sorted keys [n] or [k, n], the position of the first equal one."""
    keys = keys.reshape(-1, keys.shape[-1])
    positions = torch.arange(keys.shape[1], device=keys.device)
    is_new = torch.ones(keys.shape[1], dtype=torch.bool, device=keys.device)
    is_new[1:] = (keys[:, 1:] != keys[:, :-1]).any(dim=0)
    return torch.where(is_new, positions, 0).cummax(dim=0).values


def _before(values: Tensor) -> Tensor:
    """Sums of all values before each position: [b, n] -> [b, n + 1]."""
    return torch.nn.functional.pad(values.cumsum(dim=1), (1, 0))


def _partition(group: Tensor, high: Tensor) -> Tensor:
    """The positions with, in each group [n], the low ones before the high ones, otherwise in the same order."""
    positions = torch.arange(len(group), device=group.device)
    start = _starts(group)
    lows = _before((~high)[None].long())[0]  # [n + 1]
    last = _starts(group.flip(0)).flip(0)
    end = len(group) - last  # exclusive
    lows_before, lows_in_group = lows[:-1] - lows[start], lows[end] - lows[start]
    target = torch.where(high, start + lows_in_group + (positions - start - lows_before), start + lows_before)
    result = torch.empty_like(positions)
    result[target] = positions
    return result
