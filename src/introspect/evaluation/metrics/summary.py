"""Rollouts in, every reported number out: of one run, and of a model beside its baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from introspect.core.errors import InputError
from introspect.evaluation.metrics.aes import accuracy_efficiency_score, accuracy_efficiency_scores
from introspect.evaluation.metrics.answer_hit import (
    AnswerHitRate,
    AnswerInclusiveErrorRate,
    AnswerInclusiveErrorShareOfFailures,
    WithoutReasoningRate,
)
from introspect.evaluation.metrics.answers import F1, ExactMatch, SubstringMatch
from introspect.evaluation.metrics.bootstrap import RESAMPLES, Interval, interval, replicates
from introspect.evaluation.metrics.degeneration import DegenerationRate, UnparsedRate
from introspect.evaluation.metrics.judged import JUDGE_COUNTS, JudgedRun, JudgeMetrics
from introspect.evaluation.metrics.mean import NO_ROLLOUTS
from introspect.evaluation.metrics.records import RecordMetric, Records, Score
from introspect.evaluation.metrics.sampling import sampling_statistics
from introspect.evaluation.metrics.statistics import Statistic, point_estimates
from introspect.evaluation.metrics.tokens import TOKEN_COLUMNS, token_counts, token_statistics
from introspect.evaluation.rollouts import Rollout

# Name in the reports -> the number of one rollout that it is the mean of.
MEANS: Mapping[str, Score] = {
    "accuracy": ExactMatch.score,
    "f1": F1.score,
    "substring_match": SubstringMatch.score,
    "degeneration_rate": DegenerationRate.score,
    "unparsed_rate": UnparsedRate.score,
    "answer_hit_rate": AnswerHitRate.score,
    "answer_inclusive_error_rate": AnswerInclusiveErrorRate.score,
    "answer_inclusive_error_share_of_failures": AnswerInclusiveErrorShareOfFailures.score,
    "without_reasoning_rate": WithoutReasoningRate.score,
}
COUNTS = ("degenerations", "unparsed", "completion_tokens_total", "questions", "n")
_TOTALS = frozenset({*COUNTS, *JUDGE_COUNTS, "failed"})


class RolloutMetrics(RecordMetric):
    """Every number of a run; docs/metrics.md defines each.

    `compute` gives a flat dict: the means of `MEANS`, those of `TokenUsage`, the totals `degenerations`, `unparsed`,
    `questions` and `n` (rollouts), and, where every question has several rollouts, those of `SamplingScores`.
    """

    def __init__(self) -> None:
        super().__init__({**MEANS, **TOKEN_COLUMNS})

    def statistics(self, records: Records) -> dict[str, Statistic]:
        """Everything that is a mean, share or quantile."""
        several = len(records.question) > records.questions
        sampled = sampling_statistics(records, "accuracy") if several else {}
        means: dict[str, Statistic] = {name: records.mean(name) for name in MEANS}
        return means | token_statistics(records) | (sampled if "pass@2" in sampled else {})

    def counts(self, records: Records) -> dict[str, Tensor]:
        """The totals named in `COUNTS`."""
        return {
            "degenerations": records.scores["degeneration_rate"].sum(),
            "unparsed": records.scores["unparsed_rate"].sum(),
            **token_counts(records),
            "questions": torch.tensor(records.questions, dtype=torch.float64),
            "n": torch.tensor(len(records.question), dtype=torch.float64),
        }


def summarize(rollouts: Sequence[Rollout], judged: JudgedRun | None = None) -> dict[str, float]:
    """Every number of `RolloutMetrics`, and of `JudgeMetrics` for rollouts that are judged; nan where one is undefined.

    Raises:
        InputError: there are no rollouts, or one is given twice.
    """
    # Without `Metric.compute`, which would add what other ranks hold: these rollouts and no others.
    return _numbered(rollouts, judged)[0]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model beside its baseline on the same questions.

    `baseline` and `model` hold the numbers of `summarize`, `model` also `aes` against the baseline, and `difference`
    is model minus baseline. The `..._ci95` hold 95 % bootstrap intervals of all but the totals; those of the difference
    are paired: both runs are resampled on the same questions.
    """

    baseline: Mapping[str, float]
    model: Mapping[str, float]
    difference: Mapping[str, float]
    baseline_ci95: Mapping[str, Interval]
    model_ci95: Mapping[str, Interval]
    difference_ci95: Mapping[str, Interval]

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The content of `metrics.json`, as plain JSON values with null for what is undefined.

        `{"baseline": {..., "ci95": {...}}, "model": {..., "aes", "ci95", "difference", "difference_ci95"}}`.
        """
        baseline = {**_numbers(self.baseline), "ci95": _bounds(self.baseline_ci95)}
        model = {
            **_numbers(self.model),
            "ci95": _bounds(self.model_ci95),
            "difference": _numbers(self.difference),
            "difference_ci95": _bounds(self.difference_ci95),
        }
        return {"baseline": baseline, "model": model}


def compare_runs(
    baseline: Sequence[Rollout],
    model: Sequence[Rollout],
    *,
    judged: tuple[JudgedRun, JudgedRun] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Score two runs over the same questions, with confidence intervals; `judged` is what was said about these runs.

    Raises:
        InputError: a run is empty or has a rollout twice, the questions differ, or `resamples` is not positive.
    """
    _check_same_questions(baseline, model)
    judged_before, judged_after = judged or (None, None)
    before, before_draws = _scored(baseline, judged_before, resamples, seed)
    after, after_draws = _scored(model, judged_after, resamples, seed)
    both = [name for name in before_draws if name in after_draws]
    inputs = [(run["accuracy"], run["completion_tokens"]) for run in (after, before)]
    draws = [(run["accuracy"], run["completion_tokens"]) for run in (after_draws, before_draws)]
    aes = accuracy_efficiency_score(*inputs[0], *inputs[1])
    return Comparison(
        baseline=before,
        model={**after, "aes": aes},
        difference={name: after[name] - before[name] for name in (*both, *COUNTS, *(JUDGE_COUNTS if judged else ()))},
        baseline_ci95=_intervals(before_draws),
        model_ci95=_intervals({**after_draws, "aes": accuracy_efficiency_scores(*draws[0], *draws[1])}),
        difference_ci95=_intervals({name: after_draws[name] - before_draws[name] for name in both}),
    )


def confidence_intervals(
    rollouts: Sequence[Rollout], judged: JudgedRun | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """95 % bootstrap intervals of one run's numbers, all but the totals.

    Raises:
        InputError: there are no rollouts, one is given twice, or `resamples` is not positive.
    """
    return _intervals(_scored(rollouts, judged, resamples, seed)[1])


def _scored(
    rollouts: Sequence[Rollout], judged: JudgedRun | None, resamples: int, seed: int
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The numbers of a run, and the replicates of those that can be resampled."""
    numbers, statistics, questions = _numbered(rollouts, judged)
    return numbers, replicates(statistics, questions, resamples=resamples, seed=seed)


def _numbered(
    rollouts: Sequence[Rollout], judged: JudgedRun | None
) -> tuple[dict[str, float], dict[str, Statistic], int]:
    """The numbers of a run, what can be resampled of them, and the number of questions."""
    metrics: list[tuple[RecordMetric, Sequence[Any]]] = [(RolloutMetrics(), rollouts)]
    if judged is not None:
        if {(r.example_id, r.rollout_id) for r in rollouts} != {(j.example_id, j.rollout_id) for j in judged.rollouts}:
            raise ValueError("the judged rollouts are not those of the run")
        judges = JudgeMetrics(judged.scores, judged.base_tokens, judged.base_sentences)
        metrics.append((judges, judged.rollouts))
    statistics: dict[str, Statistic] = {}
    numbers: dict[str, Tensor] = {}
    for metric, scored in metrics:
        metric.update(scored)
        records = metric.records()  # the questions in the same order, whatever is scored about them
        found = metric.statistics(records)
        statistics |= found
        numbers |= point_estimates(found, records.questions) | metric.counts(records)
    return {name: value.item() for name, value in numbers.items()}, statistics, len({r.example_id for r in rollouts})


def _check_same_questions(baseline: Sequence[Rollout], model: Sequence[Rollout]) -> None:
    """Both runs must answer the same questions, down to the wording and the accepted answers."""
    for name, run in (("baseline", baseline), ("model", model)):
        if not run:
            raise InputError(f"{name}: {NO_ROLLOUTS}")
    asked, answered = ({(r.example_id, r.question, frozenset(r.references)) for r in run} for run in (baseline, model))
    if asked == answered:
        return
    first = min(example_id for example_id, _, _ in asked ^ answered)
    raise InputError(
        f"baseline and model must answer the same questions with the same gold answers: {len(asked - answered)} are "
        f"only in the baseline and {len(answered - asked)} only in the model, for example id {first!r}"
    )


def _intervals(draws: Mapping[str, Tensor]) -> dict[str, Interval]:
    return {name: interval(values) for name, values in draws.items()}


def _numbers(values: Mapping[str, float]) -> dict[str, float | int | None]:
    return {name: int(value) if name in _TOTALS else _or_null(value) for name, value in values.items()}


def _bounds(intervals: Mapping[str, Interval]) -> dict[str, list[float | None]]:
    return {name: [_or_null(bound) for bound in bounds] for name, bounds in intervals.items()}


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
