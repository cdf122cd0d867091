"""What a run spends: completion tokens, and how they divide into reasoning and answer."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

from torch import Tensor

from introspect.evaluation.metrics.records import RecordMetric, Records, Score
from introspect.evaluation.metrics.statistics import Ratio, Statistic

TOKEN_COLUMNS: Mapping[str, Score] = {
    "completion_tokens": attrgetter("completion_tokens"),
    "reasoning_tokens": attrgetter("reasoning_tokens"),
}


def token_statistics(records: Records) -> dict[str, Statistic]:
    """Mean, median and 95th percentile of the completion tokens per rollout, and the shares of the run's total."""
    reasoning = records.share("reasoning_tokens", "completion_tokens")
    answer = Ratio(reasoning.denominator - reasoning.numerator, reasoning.denominator)
    return {
        "completion_tokens": records.mean("completion_tokens"),
        "completion_tokens_median": records.quantile("completion_tokens", 0.5),
        "completion_tokens_p95": records.quantile("completion_tokens", 0.95),
        "reasoning_share": reasoning,
        "answer_share": answer,
    }


def token_counts(records: Records) -> dict[str, Tensor]:
    """All completion tokens of the run."""
    return {"completion_tokens_total": records.scores["completion_tokens"].sum()}


class TokenUsage(RecordMetric):
    """Completion tokens of the rollouts: reasoning, tags, answer and end of turn, without the prompt.

    `compute` gives `completion_tokens` (mean per rollout), `completion_tokens_median`, `completion_tokens_p95`,
    `completion_tokens_total`, and `reasoning_share` and `answer_share`, which divide the total and add up to 1.
    """

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__(TOKEN_COLUMNS)

    def statistics(self, records: Records) -> dict[str, Statistic]:
        """See `token_statistics`."""
        return token_statistics(records)

    def counts(self, records: Records) -> dict[str, Tensor]:
        """See `token_counts`."""
        return token_counts(records)
