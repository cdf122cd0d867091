"""Metrics of judged rollouts. docs/judges.md defines every number.

A judgment that could not be read, or was never given, is no number: it is counted, and left out of every mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from introspect.benchmarks.answers import exact_match
from introspect.evaluation.judgments import (
    PHASES,
    AnswerHit,
    Correctness,
    Effective,
    Failed,
    Judged,
    Metacognition,
    Profile,
    Quality,
    Unparsed,
)
from introspect.evaluation.metrics import trace as maths
from introspect.evaluation.metrics.records import RecordMetric, Records, Score
from introspect.evaluation.metrics.statistics import Quotient, Statistic
from introspect.oracle.paragraphs import paragraphs, sentence_counts, sentences_through

R = TypeVar("R")

JUDGE_COUNTS = ("judge_unparsed", "judge_failed")


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """A run, and what judges of these names (`scores`) said about each rollout.

    base_tokens, base_sentences: mean completion tokens and mean sentences of the reasoning of the untuned model, the
    units of MQI and of the length-aware RRP; None where they are not known.
    """

    rollouts: Sequence[Judged]
    scores: tuple[str, ...]
    base_tokens: float | None = None
    base_sentences: float | None = None


def _result(judged: Judged, judge: str, kind: type[R]) -> R | None:
    judgment = judged.judgments.get(judge)
    return judgment if isinstance(judgment, kind) else None


def _right(judged: Judged) -> float:
    return exact_match(judged.rollout.predicted_answer, judged.rollout.references)


def _graded_correct(judged: Judged) -> float | None:
    result = _result(judged, "correctness", Correctness)
    return None if result is None else float(result.grade == "correct")


def _hit(judged: Judged) -> float | None:
    result = _result(judged, "answer_hit", AnswerHit)
    return None if result is None else float(result.hit)


def _inclusive_error(judged: Judged, *, of_failures: bool = False) -> float | None:
    hit, right = _hit(judged), _right(judged)
    return None if hit is None or (of_failures and right) else hit * (1 - right)


def _sentences(judged: Judged) -> float:
    return float(sum(sentence_counts(judged.rollout.reasoning)))


def _first_correct(judged: Judged) -> float | None:
    result = _result(judged, "rrp", Profile)
    if result is None:
        return None
    return float(sentences_through(sentence_counts(judged.rollout.reasoning), result.first_correct))


def _redundant(judged: Judged) -> float | None:
    result = _result(judged, "rrp", Profile)
    counts = sentence_counts(judged.rollout.reasoning)
    return None if result is None else float(sum(counts[number - 1] for number in result.redundant))


def _profile_confidence(judged: Judged) -> float | None:
    result = _result(judged, "rrp", Profile)
    return None if result is None or not judged.rollout.reasoning.strip() else result.confidence


def _level(judged: Judged) -> float | None:
    result = _result(judged, "mqi", Quality)
    return None if result is None else float(result.level)


def _phase(judged: Judged, *, number: int) -> float | None:
    result = _result(judged, "mqi", Quality)
    return None if result is None else float(number in result.phases)


def _quality_confidence(judged: Judged) -> float | None:
    result = _result(judged, "mqi", Quality)
    return None if result is None or not judged.rollout.reasoning.strip() else result.confidence


def _wasted(judged: Judged, *, judge: str) -> float | None:
    """The xi of one trace, in words: the tokenizer that would count tokens is not at hand."""
    result = _result(judged, judge, Effective)
    if result is None:
        return None
    words = [len(paragraph.split()) for paragraph in paragraphs(judged.rollout.reasoning)]
    effective, whole = torch.tensor([sum(words[: result.paragraph]), sum(words)], dtype=torch.float64)
    return maths.wasted(effective, whole).item()


def _metacognition(judged: Judged) -> float | None:
    result = _result(judged, "metacognition", Metacognition)
    return None if result is None else float(result.level)


# By judge: the numbers of one rollout.
_COLUMNS: Mapping[str, Mapping[str, Score]] = {
    "correctness": {"judge_accuracy": _graded_correct},
    "answer_hit": {
        "judge_answer_hit_rate": _hit,
        "judge_answer_inclusive_error_rate": _inclusive_error,
        "judge_answer_inclusive_error_share_of_failures": partial(_inclusive_error, of_failures=True),
    },
    "rrp": {
        "rrp_sentences": _sentences,
        "rrp_first_correct": _first_correct,
        "rrp_redundant": _redundant,
        "rrp_confidence": _profile_confidence,
        "right": _right,
    },
    "mqi": {
        "mqi_level": _level,
        **{f"phase_{name}_rate": partial(_phase, number=number) for number, name in enumerate(PHASES, start=1)},
        "mqi_confidence": _quality_confidence,
        "completion_tokens": lambda judged: float(judged.rollout.completion_tokens),
        "right": _right,
    },
    "overthinking": {"xi_overthinking": partial(_wasted, judge="overthinking")},
    "underthinking": {"xi_underthinking": partial(_wasted, judge="underthinking")},
    "metacognition": {"metacognition": _metacognition},
}


def _outcome(judged: Judged, *, kind: type[Unparsed] | type[Failed]) -> float:
    return float(sum(isinstance(judgment, kind) for judgment in judged.judgments.values()))


_OUTCOMES: Mapping[str, Score] = {
    "judge_unparsed": partial(_outcome, kind=Unparsed),
    "judge_failed": partial(_outcome, kind=Failed),
}


def profile_statistics(records: Records, base_sentences: float | None) -> dict[str, Statistic]:
    """Means of rho, delta and R over the rollouts, plain and length-aware, and what stands beside them."""
    first, redundant = records.scores["rrp_first_correct"], records.scores["rrp_redundant"]
    total = torch.where(first.isnan(), torch.nan, records.scores["rrp_sentences"])
    profiles = {"": (_where(first, maths.arrival(first, total)), _where(first, maths.redundancy(redundant, total)))}
    if base_sentences is not None:
        against = maths.arrival_against(first, base_sentences), maths.redundancy_against(redundant, base_sentences)
        profiles["_la"] = (_where(first, against[0]), against[1])
    found: dict[str, Statistic] = {}
    for suffix, (rho, delta) in profiles.items():
        found[f"rrp_rho{suffix}"] = records.mean_of(rho)
        found[f"rrp_delta{suffix}"] = records.mean_of(delta)
        found[f"rrp_r{suffix}"] = records.mean_of(_where(first, maths.regulation(rho, delta)))
    found["rrp_reached_rate"] = records.mean_of(_where(first, (first > 0).double()))
    found["rrp_sentences"] = records.mean("rrp_sentences")
    found["rrp_confidence_gamma"] = records.gamma("rrp_confidence", "right")
    return found


def quality_statistics(records: Records, base_tokens: float | None) -> dict[str, Statistic]:
    """Mean level, shares of the phases, and MQI both of the run and as the mean over rollouts."""
    level, tokens = records.scores["mqi_level"], records.scores["completion_tokens"]
    found: dict[str, Statistic] = {"mqi_level": records.mean("mqi_level")}
    if base_tokens is not None:
        judged_tokens = records.mean_of(torch.where(level.isnan(), torch.nan, tokens))
        found["mqi"] = Quotient(records.mean("mqi_level"), judged_tokens, base_tokens)
        found["mqi_per_rollout"] = records.mean_of(maths.quality_index(level, tokens, base_tokens))
    found |= {f"phase_{name}_rate": records.mean(f"phase_{name}_rate") for name in PHASES}
    found["mqi_confidence_gamma"] = records.gamma("mqi_confidence", "right")
    return found


def _where(known: Tensor, values: Tensor) -> Tensor:
    """Values where there is a judgment, nan elsewhere: comparisons would take nan for a number."""
    return torch.where(known.isnan(), torch.nan, values)


class _JudgedMetric(RecordMetric):
    """A metric of what some judges say.

    `compute` also counts, over these judges, what could not be read (`judge_unparsed`) or was not answered
    (`judge_failed`).
    """

    def __init__(
        self, scores: Sequence[str], base_tokens: float | None = None, base_sentences: float | None = None
    ) -> None:
        columns = {name: score for judge in scores for name, score in _COLUMNS[judge].items()}
        super().__init__({**columns, **_OUTCOMES})
        self.scores = tuple(scores)
        self.base_tokens, self.base_sentences = base_tokens, base_sentences

    def update(self, rollouts: Sequence[Judged]) -> None:  # type: ignore[override]
        """Take in judged rollouts; the order does not matter."""
        mine = [Judged(j.rollout, {k: v for k, v in j.judgments.items() if k in self.scores}) for j in rollouts]
        super().update(mine)

    def statistics(self, records: Records) -> dict[str, Statistic]:
        """Everything that these judges' scores are made of."""
        found: dict[str, Statistic] = {}
        for judge in self.scores:
            if judge == "rrp":
                found |= profile_statistics(records, self.base_sentences)
            elif judge == "mqi":
                found |= quality_statistics(records, self.base_tokens)
            else:
                found |= {name: records.mean(name) for name in _COLUMNS[judge]}
        return found

    def counts(self, records: Records) -> dict[str, Tensor]:
        """The totals named in `JUDGE_COUNTS`."""
        return {name: records.scores[name].sum() for name in JUDGE_COUNTS}


class JudgedAnswers(_JudgedMetric):
    """LLM-as-judge accuracy, answer hits, and answer-inclusive errors of all rollouts and of failures. In [0, 1]."""

    def __init__(self) -> None:
        super().__init__(("correctness", "answer_hit"))


class ReachRedundancyProfile(_JudgedMetric):
    """RRP: rho, delta and R, and with `base_sentences` their length-aware versions. In [0, 1]; R is to be high."""

    def __init__(self, base_sentences: float | None = None) -> None:
        super().__init__(("rrp",), base_sentences=base_sentences)


class MetacognitiveQuality(_JudgedMetric):
    """The level (0 to 5), shares of the phases, and with `base_tokens` the index MQI. Higher is better."""

    def __init__(self, base_tokens: float | None = None) -> None:
        super().__init__(("mqi",), base_tokens=base_tokens)


class ThinkingWaste(_JudgedMetric):
    """xi_OT over right and xi_UT over wrong rollouts. In [0, 1]; lower is better."""

    def __init__(self) -> None:
        super().__init__(("overthinking", "underthinking"))


class MetacognitionScore(_JudgedMetric):
    """Mean score of the first version's rubric, 0 to 5."""

    def __init__(self) -> None:
        super().__init__(("metacognition",))


class JudgeMetrics(_JudgedMetric):
    """Every number of the judges named in `scores`."""
