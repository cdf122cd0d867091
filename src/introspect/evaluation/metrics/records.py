"""The base of every metric of rollouts: one record per rollout, for quantiles, votes among rollouts, resampling."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from introspect.benchmarks.answers import normalize_answer
from introspect.core.errors import InputError
from introspect.evaluation.metrics.statistics import Gamma, Quantile, Ratio, Statistic, point_estimates
from introspect.evaluation.rollouts import Rollout

NO_ROLLOUTS = "no rollouts were given: there is nothing to score"

# Of one rollout; None where it does not apply.
Score = Callable[[Any], float | None]


@dataclass(frozen=True, slots=True)
class Records:
    """Rollouts as columns [n], sorted by question and, within a question, by rollout id.

    Attributes:
        question: numbers the questions from 0, in an order that depends on the example ids alone.
        vote: equal for rollouts with equal normalised answers.
        scores: float64, nan where a score does not apply.
    """

    question: Tensor
    vote: Tensor
    scores: Mapping[str, Tensor]

    @property
    def questions(self) -> int:
        """The number of questions."""
        return int(self.question[-1]) + 1

    def per_question(self, values: Tensor) -> Tensor:
        """Sums of values [n] within each question [q]."""
        return torch.zeros(self.questions, dtype=values.dtype).index_add_(0, self.question, values)

    def mean(self, name: str) -> Ratio:
        """Mean of a score over the rollouts that it applies to."""
        return self.mean_of(self.scores[name])

    def mean_of(self, values: Tensor) -> Ratio:
        """Mean of values [n] over the rollouts that have one, the others being nan."""
        applies = (~values.isnan()).to(values.dtype)
        return Ratio(self.per_question(values.nan_to_num(0.0)), self.per_question(applies))

    def gamma(self, x: str, y: str) -> Gamma:
        """Rank association of two scores over the rollouts that have both."""
        both = ~(self.scores[x].isnan() | self.scores[y].isnan())
        return Gamma(self.scores[x][both], self.scores[y][both], self.question[both])

    def share(self, part: str, whole: str) -> Ratio:
        """Sum of one score over the sum of another."""
        return Ratio(self.per_question(self.scores[part]), self.per_question(self.scores[whole]))

    def quantile(self, name: str, level: float) -> Quantile:
        """Quantile of a score over the rollouts."""
        values, order = self.scores[name].sort()
        return Quantile(values, self.question[order], level)


class RecordMetric(Metric):
    """A metric that keeps one small record per rollout: three 64-bit keys and one number per score.

    Records of batches and ranks are concatenated, and their order does not matter. The numbers are float64, which
    CPU and CUDA know; texts are kept as 64-bit hashes. `compute` returns a flat dict of float64 scalars.

    Raises:
        InputError: `compute` before any rollout was given, or after a rollout was given twice.
    """

    full_state_update = False
    is_differentiable = False

    keys: list[Tensor]
    values: list[Tensor]

    def __init__(self, columns: Mapping[str, Score]) -> None:
        super().__init__()
        self.columns = dict(columns)
        self.add_state("keys", [], dist_reduce_fx="cat")
        self.add_state("values", [], dist_reduce_fx="cat")
        self._start()

    def _start(self) -> None:
        # Empty records of the right form: what a rank without rollouts contributes when all ranks are gathered.
        self.keys.append(torch.empty(0, 3, dtype=torch.int64, device=self.device))
        self.values.append(torch.empty(0, len(self.columns), dtype=torch.float64, device=self.device))

    def reset(self) -> None:
        """Remove all rollouts."""
        super().reset()
        self._start()

    def update(self, rollouts: Sequence[Rollout]) -> None:
        """Add rollouts; the order does not matter."""
        self._add(rollouts, rollouts)

    def _add(self, rollouts: Sequence[Rollout], scored: Sequence[Any]) -> None:
        """Add the records of rollouts, and the scores of what is scored about each."""
        if not rollouts:
            return
        keys = [(_hash(r.example_id), r.rollout_id, _hash(normalize_answer(r.predicted_answer))) for r in rollouts]
        values = [[_number(score(item)) for score in self.columns.values()] for item in scored]
        self.keys.append(torch.tensor(keys, dtype=torch.int64, device=self.device))
        self.values.append(torch.tensor(values, dtype=torch.float64, device=self.device))

    def records(self) -> Records:
        """Collect everything seen since the last reset, on the CPU."""
        keys, values = dim_zero_cat(self.keys).cpu(), dim_zero_cat(self.values).cpu()
        if not len(keys):
            raise InputError(NO_ROLLOUTS)
        order = keys[:, 1].argsort(stable=True)
        order = order[keys[order, 0].argsort(stable=True)]
        keys, values = keys[order], values[order]
        if repeats := int((keys[1:, :2] == keys[:-1, :2]).all(dim=1).sum()):
            raise InputError(f"{repeats} of {len(keys)} rollouts have the example id and rollout id of another")
        question = keys[:, 0].unique_consecutive(return_inverse=True)[1]
        return Records(question, keys[:, 2], dict(zip(self.columns, values.unbind(dim=1), strict=True)))

    @abstractmethod
    def statistics(self, records: Records) -> dict[str, Statistic]:
        """Give what the metric reports, ready to be resampled."""

    def counts(self, records: Records) -> dict[str, Tensor]:
        """Give totals, which are reported without an interval."""
        return {}

    def compute(self) -> dict[str, Tensor]:
        """Compute statistics and counts of everything seen since the last reset."""
        records = self.records()
        return point_estimates(self.statistics(records), records.questions) | self.counts(records)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little", signed=True)


def _number(score: float | None) -> float:
    return float("nan") if score is None else float(score)
