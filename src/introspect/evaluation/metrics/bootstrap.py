"""Percentile bootstrap over questions: the uncertainty of a number.

Questions are drawn with replacement, each with all its rollouts: rollouts of one question resemble each other, and
drawing them singly would make the intervals too narrow. Two runs on the same questions are compared by drawing the same
questions for both, which leaves only what differs between the runs.

Shapes: q questions, b replicates in a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from introspect.core.errors import InputError
from introspect.evaluation.metrics.statistics import Statistic

RESAMPLES = 2000
_CHUNK = 2**19  # weights that are held at a time


class Interval(NamedTuple):
    """The 2.5th and 97.5th percentile of the replicates: a 95 % confidence interval."""

    low: float
    high: float


def question_weights(questions: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """Draw how often each question counts, in chunks [b, q] of float64 whole numbers; equal arguments draw alike."""
    generator = torch.Generator().manual_seed(seed)
    for draws in torch.ones(resamples).split(max(1, _CHUNK // questions)):
        drawn = torch.randint(questions, (len(draws), questions), generator=generator)
        weights = torch.zeros(len(draws), questions, dtype=torch.float64)
        yield weights.scatter_add_(1, drawn, torch.ones_like(weights))


def replicates(
    statistics: Mapping[str, Statistic], questions: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Tensor]:
    """Compute each statistic on each resample, [resamples]; all nan for a single question, which shows no spread.

    Statistics of two runs over the same questions may be subtracted replicate by replicate, given the same seed.

    Raises:
        InputError: `resamples` is not positive.
    """
    if resamples < 1:
        raise InputError(f"bootstrap resamples: got {resamples}, expected 1 or more")
    if questions < 2:
        return {name: torch.full((resamples,), torch.nan, dtype=torch.float64) for name in statistics}
    chunks: dict[str, list[Tensor]] = {name: [] for name in statistics}
    for weights in question_weights(questions, resamples, seed):
        for name, statistic in statistics.items():
            chunks[name].append(statistic.estimate(weights))
    return {name: torch.cat(parts) for name, parts in chunks.items()}


def interval(replicate: Tensor) -> Interval:
    """Compute the 95 % percentile interval of replicates [resamples].

    Replicates without a value (a share of failures in a resample without failures) are left out; nan if none has one.
    """
    levels = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = replicate.nanquantile(levels).tolist()
    return Interval(low, high)
