"""The accuracy metrics of rollouts: exact match, substring match and token F1 of the final answer."""

from __future__ import annotations

from introspect.benchmarks.answers import exact_match, f1_score, substring_match
from introspect.evaluation.metrics.mean import RolloutMean
from introspect.evaluation.rollouts import Rollout


class ExactMatch(RolloutMean):
    """Share of rollouts whose answer equals an accepted one: the accuracy of every report. In [0, 1]."""

    higher_is_better = True

    @staticmethod
    def score(rollout: Rollout) -> float:
        """1.0 or 0.0."""
        return exact_match(rollout.predicted_answer, rollout.references)


class SubstringMatch(RolloutMean):
    """Share of rollouts whose answer contains an accepted one. In [0, 1]; never below exact match."""

    higher_is_better = True

    @staticmethod
    def score(rollout: Rollout) -> float:
        """1.0 or 0.0."""
        return substring_match(rollout.predicted_answer, rollout.references)


class F1(RolloutMean):
    """Mean token F1 of the answers. In [0, 1]; never below exact match."""

    higher_is_better = True

    @staticmethod
    def score(rollout: Rollout) -> float:
        """Between 0.0 and 1.0."""
        return f1_score(rollout.predicted_answer, rollout.references)
