"""Was the right answer found on the way? Answer hits, and the errors that lose an answer already found.

An answer-inclusive error is a wrong final answer after a trace that names the right one: the failure that
metacognitive tuning is meant to cure. The paper lets a judge read the trace; here the words decide, so the numbers are
free and repeatable, but lenient: a name that is only listed or rejected is a hit as well.
"""

from __future__ import annotations

from introspect.evaluation.metrics.mean import RolloutMean
from introspect.evaluation.outcomes import answer_hit, is_answer_inclusive_error, is_wrong
from introspect.evaluation.rollouts import Rollout


class AnswerHitRate(RolloutMean):
    """Share of rollouts whose reasoning names an accepted answer. In [0, 1]."""

    higher_is_better = True

    @staticmethod
    def score(rollout: Rollout) -> float:
        """1.0 for a hit."""
        return float(answer_hit(rollout.reasoning, rollout.references))


class AnswerInclusiveErrorRate(RolloutMean):
    """Answer-inclusive errors as a share of all rollouts. In [0, 1]."""

    higher_is_better = False

    @staticmethod
    def score(rollout: Rollout) -> float:
        """1.0 for an answer-inclusive error."""
        return float(is_answer_inclusive_error(rollout))


class AnswerInclusiveErrorShareOfFailures(RolloutMean):
    """Answer-inclusive errors as a share of the wrong rollouts. In [0, 1]; nan where none is wrong."""

    higher_is_better = False

    @staticmethod
    def score(rollout: Rollout) -> float | None:
        """1.0 for an answer-inclusive error, 0.0 for another failure, None for a right answer."""
        return float(is_answer_inclusive_error(rollout)) if is_wrong(rollout) else None


class WithoutReasoningRate(RolloutMean):
    """Share of rollouts without a think block, in which no answer can be hit. In [0, 1].

    Where it is high, the rates of answer hits and answer-inclusive errors say little.
    """

    @staticmethod
    def score(rollout: Rollout) -> float:
        """1.0 for an empty reasoning."""
        return float(not rollout.reasoning.strip())
