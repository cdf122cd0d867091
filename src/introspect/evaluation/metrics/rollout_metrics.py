"""The numbers of a run that its rollouts alone give: rates, completion tokens, and scores of repeated sampling."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

import torch
from torch import Tensor

from introspect.evaluation import outcomes
from introspect.evaluation.metrics.records import RecordMetric, Records, Score
from introspect.evaluation.metrics.sampling import sampling_statistics
from introspect.evaluation.metrics.statistics import Ratio, Statistic

# Name in the reports -> the score of one rollout that it is the mean of. docs/metrics.md defines each.
MEANS: Mapping[str, Score] = {
    "accuracy": outcomes.is_correct,
    "f1": outcomes.f1,
    "substring_match": outcomes.contains_reference,
    "degeneration_rate": outcomes.is_degenerate,
    "unparsed_rate": outcomes.is_unparsed,
    "answer_hit_rate": outcomes.is_answer_hit,
    "answer_inclusive_error_rate": outcomes.is_answer_inclusive_error,
    "answer_inclusive_error_share_of_failures": outcomes.failure_is_answer_inclusive,
    "without_reasoning_rate": outcomes.has_no_reasoning,
}
COUNTS = ("degenerations", "unparsed", "completion_tokens_total", "questions", "n")
_TOKENS: Mapping[str, Score] = {
    "completion_tokens": attrgetter("completion_tokens"),
    "reasoning_tokens": attrgetter("reasoning_tokens"),
}


class TokenUsage(RecordMetric):
    """Completion tokens of the rollouts: reasoning, tags, answer and end of turn, without the prompt.

    `compute` gives `completion_tokens` (mean per rollout), `completion_tokens_median`, `completion_tokens_p95`,
    `completion_tokens_total`, and `reasoning_share` and `answer_share`, which divide the total and add up to 1.
    """

    def __init__(self) -> None:
        super().__init__(_TOKENS)

    def statistics(self, records: Records) -> dict[str, Statistic]:
        """Give the mean, the quantiles and the shares."""
        reasoning = records.share("reasoning_tokens", "completion_tokens")
        return {
            "completion_tokens": records.mean("completion_tokens"),
            "completion_tokens_median": records.quantile("completion_tokens", 0.5),
            "completion_tokens_p95": records.quantile("completion_tokens", 0.95),
            "reasoning_share": reasoning,
            "answer_share": Ratio(reasoning.denominator - reasoning.numerator, reasoning.denominator),
        }

    def counts(self, records: Records) -> dict[str, Tensor]:
        """Count all completion tokens of the run."""
        return {"completion_tokens_total": records.scores["completion_tokens"].sum()}


class RolloutMetrics(TokenUsage):
    """Every number of a run; docs/metrics.md defines each.

    `compute` gives a flat dict: the means of `MEANS`, the numbers of `TokenUsage`, the totals `degenerations`,
    `unparsed`, `questions` and `n` (rollouts), and, where every question has several rollouts, `avg@k`, `maj@k` and
    `pass@k` of exact match (`sampling.sampling_statistics`).
    """

    def __init__(self) -> None:
        RecordMetric.__init__(self, {**MEANS, **_TOKENS})

    def statistics(self, records: Records) -> dict[str, Statistic]:
        """Give every mean, share and quantile."""
        several = len(records.question) > records.questions
        sampled = sampling_statistics(records, "accuracy") if several else {}
        means: dict[str, Statistic] = {name: records.mean(name) for name in MEANS}
        return means | super().statistics(records) | (sampled if "pass@2" in sampled else {})

    def counts(self, records: Records) -> dict[str, Tensor]:
        """Count what `COUNTS` names."""
        return {
            "degenerations": records.scores["degeneration_rate"].sum(),
            "unparsed": records.scores["unparsed_rate"].sum(),
            **super().counts(records),
            "questions": torch.tensor(records.questions, dtype=torch.float64),
            "n": torch.tensor(len(records.question), dtype=torch.float64),
        }
