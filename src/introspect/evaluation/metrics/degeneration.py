"""Does the rollout come to an end, and is there an answer to read when it does?

A degeneration is a rollout that did not end by itself: the model ran until a length limit cut it off. What decides is
the finish reason, never the token count, because the limit differs from prompt to prompt.
"""

from __future__ import annotations

from introspect.evaluation.metrics.mean import RolloutCount, RolloutMean
from introspect.evaluation.outcomes import is_degenerate, is_unparsed
from introspect.evaluation.rollouts import Rollout


class DegenerationRate(RolloutMean):
    """Share of rollouts that did not end by themselves. In [0, 1]."""

    higher_is_better = False

    @staticmethod
    def score(rollout: Rollout) -> float:
        """1.0 for a degeneration."""
        return float(is_degenerate(rollout))


class DegenerationCount(RolloutCount):
    """Number of rollouts that did not end by themselves."""

    higher_is_better = False

    @staticmethod
    def score(rollout: Rollout) -> float:
        """1.0 for a degeneration."""
        return float(is_degenerate(rollout))


class UnparsedRate(RolloutMean):
    """Share of rollouts that ended by themselves without a readable answer. In [0, 1]; apart from degenerations."""

    higher_is_better = False

    @staticmethod
    def score(rollout: Rollout) -> float:
        """1.0 for a finished rollout without an answer."""
        return float(is_unparsed(rollout))


class UnparsedCount(RolloutCount):
    """Number of rollouts that ended by themselves without a readable answer."""

    higher_is_better = False

    @staticmethod
    def score(rollout: Rollout) -> float:
        """1.0 for a finished rollout without an answer."""
        return float(is_unparsed(rollout))
