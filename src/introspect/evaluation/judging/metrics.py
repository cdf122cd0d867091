"""Metrics of judged rollouts. docs/judges.md defines every number, with its source.

A judgment that could not be read, or was never given, is no number: it is counted, and left out of every mean.
The formulas are pure functions of float64 tensors of one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from introspect.evaluation.judging.judgments import PHASES, Failed, Judged, Unparsed
from introspect.evaluation.metrics.records import RecordMetric, Records, Score
from introspect.evaluation.metrics.statistics import Quotient, Statistic
from introspect.evaluation.outcomes import is_correct
from introspect.evaluation.rollouts import Rollout
from introspect.oracle.paragraphs import paragraphs, sentence_counts, sentences_through

JUDGE_COUNTS = ("judge_unparsed", "judge_failed")


class BaseLengths(NamedTuple):
    """Mean lengths of the base model's answers; the scores that need an unknown one are left out.

    Attributes:
        tokens: completion tokens, the unit of MQI; None where they are not known.
        sentences: sentences of the reasoning, the unit of the length-aware RRP; None where they are not known.
    """

    tokens: float | None = None
    sentences: float | None = None


UNKNOWN = BaseLengths()


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """A run with its judgments.

    Attributes:
        rollouts: each with what the judges say about it.
        scores: names of the judges.
        base: mean lengths of the base model's answers.
    """

    rollouts: Sequence[Judged]
    scores: tuple[str, ...]
    base: BaseLengths = UNKNOWN

    def about(self, questions: Container[str]) -> JudgedRun:
        """Keep what is about questions of these ids; the base lengths stay."""
        return replace(self, rollouts=[judged for judged in self.rollouts if judged.example_id in questions])


def arrival(first_correct: Tensor, total: Tensor) -> Tensor:
    """rho, the fraction of its sentences that a trace goes through until it has derived the answer; 1 if it never does.

    In [0, 1] for first_correct in {-1} or [1, total].
    """
    return torch.where(first_correct < 0, 1.0, first_correct / total)


def redundancy(redundant: Tensor, total: Tensor) -> Tensor:
    """delta, the fraction of the sentences that are redundant; 0 for a trace without sentences. In [0, 1]."""
    return torch.where(total > 0, redundant / total, 0.0)


def reach_redundancy(rho: Tensor, delta: Tensor) -> Tensor:
    """RRP, the harmonic mean of 1 - rho and 1 - delta, and 0 where both are 0. In [0, 1]; higher is better."""
    early, lean = 1 - rho, 1 - delta
    return torch.where(early + lean > 0, 2 * early * lean / (early + lean), 0.0)


def arrival_against(first_correct: Tensor, base_sentences: float) -> Tensor:
    """The length-aware rho: min(1, first_correct / T), T the mean sentences of a base trace; 1 where never derived."""
    return torch.where(first_correct < 0, 1.0, (first_correct / base_sentences).clamp(max=1))


def redundancy_against(redundant: Tensor, base_sentences: float) -> Tensor:
    """The length-aware delta: min(1, redundant / T), T the mean sentences of a base trace."""
    return (redundant / base_sentences).clamp(max=1)


def quality_index(level: Tensor, tokens: Tensor, base_tokens: float) -> Tensor:
    """MQI: the level (0 to 5) times base tokens over tokens; nan where there are no tokens. Not bounded by 5."""
    return torch.where(tokens > 0, level * base_tokens / tokens, torch.nan)


def wasted(effective: Tensor, whole: Tensor) -> Tensor:
    """xi, the fraction of a trace that comes after its effective part; nan for an empty trace. In [0, 1]."""
    return torch.where(whole > 0, 1 - effective / whole, torch.nan)


def _column(judge: str, read: Callable[[Rollout, Any], float | None]) -> Score:
    """The score that `read` takes from a judge's result; None where there is no result."""

    def score(judged: Judged) -> float | None:
        result = judged.judgments.get(judge)
        return None if result is None or isinstance(result, Unparsed | Failed) else read(judged.rollout, result)

    return score


def _correct(judged: Judged) -> bool:
    return is_correct(judged.rollout)


def _redundant_sentences(rollout: Rollout, redundant: Sequence[int]) -> float:
    counts = sentence_counts(rollout.reasoning)
    return sum(counts[number - 1] for number in redundant)


def _confidence(rollout: Rollout, result: Any) -> float | None:
    return result.confidence if rollout.reasoning.strip() else None


def _wasted(rollout: Rollout, result: Any) -> float:
    """The xi of one trace, in words: the tokenizer that would count tokens is not at hand."""
    words = [len(paragraph.split()) for paragraph in paragraphs(rollout.reasoning)]
    effective, whole = torch.tensor([sum(words[: result.paragraph]), sum(words)], dtype=torch.float64)
    return wasted(effective, whole).item()


def _phase(number: int) -> Score:
    return _column("mqi", lambda _, result: number in result.phases)


# By judge: the numbers of one rollout.
_COLUMNS: Mapping[str, Mapping[str, Score]] = {
    "correctness": {"judge_accuracy": _column("correctness", lambda _, result: result.grade == "correct")},
    "answer_hit": {
        "judge_answer_hit_rate": _column("answer_hit", lambda _, result: result.hit),
        "judge_answer_inclusive_error_rate": _column(
            "answer_hit", lambda rollout, result: result.hit and not is_correct(rollout)
        ),
        "judge_answer_inclusive_error_share_of_failures": _column(
            "answer_hit", lambda rollout, result: None if is_correct(rollout) else result.hit
        ),
    },
    "rrp": {
        "rrp_sentences": lambda judged: sum(sentence_counts(judged.rollout.reasoning)),
        "rrp_first_correct": _column(
            "rrp",
            lambda rollout, result: sentences_through(sentence_counts(rollout.reasoning), result.first_correct),
        ),
        "rrp_redundant": _column("rrp", lambda rollout, result: _redundant_sentences(rollout, result.redundant)),
        "rrp_confidence": _column("rrp", _confidence),
        "correct": _correct,
    },
    "mqi": {
        "mqi_level": _column("mqi", lambda _, result: result.level),
        **{f"phase_{name}_rate": _phase(number) for number, name in enumerate(PHASES, start=1)},
        "mqi_confidence": _column("mqi", _confidence),
        "completion_tokens": lambda judged: judged.rollout.completion_tokens,
        "correct": _correct,
    },
    "overthinking": {"xi_overthinking": _column("overthinking", _wasted)},
    "underthinking": {"xi_underthinking": _column("underthinking", _wasted)},
    "metacognition": {"metacognition": _column("metacognition", lambda _, result: result.level)},
}


def _count(judged: Judged, *, kind: type[Unparsed] | type[Failed]) -> float:
    return sum(isinstance(judgment, kind) for judgment in judged.judgments.values())


_COUNT_COLUMNS: Mapping[str, Score] = {
    "judge_unparsed": partial(_count, kind=Unparsed),
    "judge_failed": partial(_count, kind=Failed),
}


def profile_statistics(records: Records, base_sentences: float | None) -> dict[str, Statistic]:
    """Average rho, delta and RRP over the rollouts, by their own length and length-aware."""
    first, redundant = records.scores["rrp_first_correct"], records.scores["rrp_redundant"]
    total = torch.where(first.isnan(), torch.nan, records.scores["rrp_sentences"])
    profiles = {"": (_where(first, arrival(first, total)), _where(first, redundancy(redundant, total)))}
    if base_sentences is not None:
        against = arrival_against(first, base_sentences), redundancy_against(redundant, base_sentences)
        profiles["_la"] = (_where(first, against[0]), against[1])
    found: dict[str, Statistic] = {}
    for suffix, (rho, delta) in profiles.items():
        found[f"rrp_rho{suffix}"] = records.mean_of(rho)
        found[f"rrp_delta{suffix}"] = records.mean_of(delta)
        found[f"rrp_r{suffix}"] = records.mean_of(_where(first, reach_redundancy(rho, delta)))
    found["rrp_reached_rate"] = records.mean_of(_where(first, (first > 0).double()))
    found["rrp_sentences"] = records.mean("rrp_sentences")
    found["rrp_confidence_gamma"] = records.gamma("rrp_confidence", "correct")
    return found


def quality_statistics(records: Records, base_tokens: float | None) -> dict[str, Statistic]:
    """Average the level and the phases, and give MQI both of the run and as the mean over rollouts."""
    level, tokens = records.scores["mqi_level"], records.scores["completion_tokens"]
    found: dict[str, Statistic] = {"mqi_level": records.mean("mqi_level")}
    if base_tokens is not None:
        judged_tokens = records.mean_of(torch.where(level.isnan(), torch.nan, tokens))
        found["mqi"] = Quotient(records.mean("mqi_level"), judged_tokens, base_tokens)
        found["mqi_per_rollout"] = records.mean_of(quality_index(level, tokens, base_tokens))
    found |= {f"phase_{name}_rate": records.mean(f"phase_{name}_rate") for name in PHASES}
    found["mqi_confidence_gamma"] = records.gamma("mqi_confidence", "correct")
    return found


def _where(known: Tensor, values: Tensor) -> Tensor:
    """Values where there is a judgment, nan elsewhere: comparisons would take nan for a number."""
    return torch.where(known.isnan(), torch.nan, values)


class JudgeMetrics(RecordMetric):
    """Every number of the judges that are named in `scores`.

    `compute` also counts, over these judges, what could not be read (`judge_unparsed`) or was not answered
    (`judge_failed`).

    Args:
        scores: names of the judges.
        base: mean lengths of the base model's answers, the units of MQI and of the length-aware RRP.
    """

    def __init__(self, scores: Sequence[str], base: BaseLengths = UNKNOWN) -> None:
        columns = {name: score for judge in scores for name, score in _COLUMNS[judge].items()}
        super().__init__({**columns, **_COUNT_COLUMNS})
        self.scores = tuple(scores)
        self.base = base

    def update(self, rollouts: Sequence[Judged]) -> None:  # type: ignore[override]
        """Add judged rollouts; the order does not matter."""
        named = [replace(j, judgments={k: v for k, v in j.judgments.items() if k in self.scores}) for j in rollouts]
        self._add([judged.rollout for judged in named], named)

    def statistics(self, records: Records) -> dict[str, Statistic]:
        """Give everything that these judges' scores are made of."""
        found: dict[str, Statistic] = {}
        for judge in self.scores:
            if judge == "rrp":
                found |= profile_statistics(records, self.base.sentences)
            elif judge == "mqi":
                found |= quality_statistics(records, self.base.tokens)
            else:
                found |= {name: records.mean(name) for name in _COLUMNS[judge]}
        return found

    def counts(self, records: Records) -> dict[str, Tensor]:
        """Count what `JUDGE_COUNTS` names."""
        return {name: records.scores[name].sum() for name in JUDGE_COUNTS}
