"""Rollouts in, every reported number out: of one run, and of a model with its baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from introspect.core.errors import InputError
from introspect.evaluation.judging.metrics import JUDGE_COUNTS, JudgedRun, JudgeMetrics
from introspect.evaluation.judging.running import JudgedRuns
from introspect.evaluation.metrics.bootstrap import RESAMPLES, Interval, interval, replicates
from introspect.evaluation.metrics.records import NO_ROLLOUTS, RecordMetric
from introspect.evaluation.metrics.rollout_metrics import COUNTS, RolloutMetrics
from introspect.evaluation.metrics.statistics import Statistic, point_estimates
from introspect.evaluation.rollouts import Rollout
from introspect.evaluation.runs import Runs

_TOTALS = frozenset({*COUNTS, *JUDGE_COUNTS, "failed"})


def summarize(rollouts: Sequence[Rollout], judged: JudgedRun | None = None) -> dict[str, float]:
    """Compute every number of `RolloutMetrics`, and of `JudgeMetrics` for judged rollouts; nan where one is undefined.

    Raises:
        InputError: there are no rollouts, or one is given twice.
    """
    # Without `Metric.compute`, which would add what other ranks hold: these rollouts and no others.
    return _numbered(rollouts, judged)[0]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The numbers of a model and its baseline on the same questions.

    The intervals are 95 % bootstrap intervals of all numbers but the totals; those of the difference are paired: both
    runs are resampled on the same questions.

    Attributes:
        baseline: the numbers of `summarize`, and `failed`, the requests without an answer; empty without a baseline.
        model: the same numbers of the model, and `aes` against the baseline.
        difference: model minus baseline.
        baseline_ci95: intervals of the baseline's numbers.
        model_ci95: intervals of the model's numbers.
        difference_ci95: intervals of the differences.
    """

    baseline: Mapping[str, float]
    model: Mapping[str, float]
    difference: Mapping[str, float]
    baseline_ci95: Mapping[str, Interval]
    model_ci95: Mapping[str, Interval]
    difference_ci95: Mapping[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """Convert to the content of `metrics.json`, with null for what is undefined.

        `{"baseline": {..., "ci95": {...}}, "model": {..., "aes", "ci95", "difference", "difference_ci95"}}`; the
        baseline is null where there is none.
        """
        baseline = {**_numbers(self.baseline), "ci95": _bounds(self.baseline_ci95)} if self.baseline else None
        model = {
            **_numbers(self.model),
            "ci95": _bounds(self.model_ci95),
            "difference": _numbers(self.difference),
            "difference_ci95": _bounds(self.difference_ci95),
        }
        return {"baseline": baseline, "model": model}


def compare_runs(
    runs: Runs, judged: JudgedRuns | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Score a model and its baseline on the same questions, with confidence intervals.

    Args:
        runs: the rollouts; without a baseline only the model's side has numbers.
        judged: the judgments of the same rollouts.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: a run is empty or has a rollout twice, the questions differ, or `resamples` is not positive.
    """
    if runs.baseline is not None:
        _check_same_questions(runs.baseline, runs.model)
    after, after_draws = _scored(runs.model, judged.model if judged else None, resamples, seed)
    model = {**after, "failed": runs.model_failed}
    if runs.baseline is None:
        return Comparison({}, model, {}, {}, _intervals(after_draws), {})
    before, before_draws = _scored(runs.baseline, judged.baseline if judged else None, resamples, seed)
    both = [name for name in before_draws if name in after_draws]
    counts = (*COUNTS, *(JUDGE_COUNTS if judged else ()))
    return Comparison(
        baseline={**before, "failed": runs.baseline_failed},
        model={**model, "aes": _aes(_tensors(after), _tensors(before)).item()},
        difference={name: after[name] - before[name] for name in (*both, *counts)},
        baseline_ci95=_intervals(before_draws),
        model_ci95=_intervals({**after_draws, "aes": _aes(after_draws, before_draws)}),
        difference_ci95=_intervals({name: after_draws[name] - before_draws[name] for name in both}),
    )


def _aes(model: Mapping[str, Tensor], baseline: Mapping[str, Tensor]) -> Tensor:
    return accuracy_efficiency_score(
        model["accuracy"], model["completion_tokens"], baseline["accuracy"], baseline["completion_tokens"]
    )


def _tensors(numbers: Mapping[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}


def accuracy_efficiency_score(
    accuracy: Tensor,
    tokens: Tensor,
    base_accuracy: Tensor,
    base_tokens: Tensor,
    alpha: float = 1.0,
    beta: float = 3.0,
    gamma: float = 5.0,
) -> Tensor:
    """AES of a model against a baseline (O1-Pruner, arXiv 2501.12570), for float64 tensors of one shape.

    alpha times the fraction of tokens saved, plus beta times a relative gain in accuracy or minus gamma times a
    relative loss. Both differences are relative to the baseline, so the baseline itself scores 0 and the unit of
    accuracy cancels out. nan where the baseline has no right answer or no tokens: nothing is relative to 0.
    """
    saved = (base_tokens - tokens) / base_tokens
    gained = (accuracy - base_accuracy) / base_accuracy
    score = alpha * saved + torch.where(gained >= 0, beta, gamma) * gained
    return torch.where((base_accuracy > 0) & (base_tokens > 0), score, torch.nan)


def _scored(
    rollouts: Sequence[Rollout], judged: JudgedRun | None, resamples: int, seed: int
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Give the numbers of a run, and the replicates of those that can be resampled."""
    numbers, statistics, questions = _numbered(rollouts, judged)
    return numbers, replicates(statistics, questions, resamples=resamples, seed=seed)


def _numbered(
    rollouts: Sequence[Rollout], judged: JudgedRun | None
) -> tuple[dict[str, float], dict[str, Statistic], int]:
    """Give the numbers of a run, what can be resampled of them, and the number of questions."""
    metrics: list[tuple[RecordMetric, Sequence[Any]]] = [(RolloutMetrics(), rollouts)]
    if judged is not None:
        if {(r.example_id, r.rollout_id) for r in rollouts} != {(j.example_id, j.rollout_id) for j in judged.rollouts}:
            raise ValueError("the judged rollouts are not those of the run")
        judges = JudgeMetrics(judged.scores, judged.base)
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
    """Refuse runs whose questions differ, down to the wording and the accepted answers."""
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
