"""What one rollout scores: its final answer, how it ended, and whether its reasoning names the answer.

An answer-inclusive error is a wrong final answer after a trace that names the right one: the failure that metacognitive
tuning is meant to cure. The paper lets a judge read the trace; here the words decide, so the numbers are free and
repeatable, but lenient: a name that is only listed or rejected is a hit as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from introspect.benchmarks.answers import exact_match, f1_score, find_reference, normalize_answer, substring_match
from introspect.evaluation.rollouts import Rollout

Outcome = Literal["correct", "degenerate", "no answer", "answer-inclusive error", "wrong"]


def is_correct(rollout: Rollout) -> bool:
    """Whether the final answer equals an accepted one: the accuracy of every report."""
    return bool(exact_match(rollout.predicted_answer, rollout.references))


def f1(rollout: Rollout) -> float:
    """Token F1 of the final answer, in [0, 1]; never below exact match."""
    return f1_score(rollout.predicted_answer, rollout.references)


def contains_reference(rollout: Rollout) -> bool:
    """Whether the final answer contains an accepted one; true for every exact match."""
    return bool(substring_match(rollout.predicted_answer, rollout.references))


def is_degenerate(rollout: Rollout) -> bool:
    """Whether the rollout did not end by itself: the model ran until a length limit cut it off.

    The finish reason decides, never the token count, because the limit differs from prompt to prompt.
    """
    return not rollout.finished


def is_unparsed(rollout: Rollout) -> bool:
    """Whether the rollout ended by itself without a readable `<answer>`; it counts as wrong, and is counted apart."""
    return rollout.finished and not rollout.predicted_answer


def has_no_reasoning(rollout: Rollout) -> bool:
    """Whether there is no think block, in which an answer could be hit.

    Where this is frequent, the rates of answer hits and answer-inclusive errors say little.
    """
    return not rollout.reasoning.strip()


def answer_hit(reasoning: str, references: Sequence[str]) -> bool:
    """Whether the normalised reasoning contains a normalised, non-empty reference as whole words."""
    return find_reference(normalize_answer(reasoning), references) is not None


def is_answer_hit(rollout: Rollout) -> bool:
    """Whether the reasoning names an accepted answer."""
    return answer_hit(rollout.reasoning, rollout.references)


def is_answer_inclusive_error(rollout: Rollout) -> bool:
    """Whether the final answer is wrong by exact match although the reasoning names a right one."""
    return not is_correct(rollout) and is_answer_hit(rollout)


def failure_is_answer_inclusive(rollout: Rollout) -> bool | None:
    """Whether a wrong rollout is an answer-inclusive error; None for a correct one."""
    return None if is_correct(rollout) else is_answer_hit(rollout)


def outcome(rollout: Rollout) -> Outcome:
    """Name the outcome: `correct`, or the first kind of failure that holds."""
    if is_correct(rollout):
        return "correct"
    if is_degenerate(rollout):
        return "degenerate"
    if is_unparsed(rollout):
        return "no answer"
    return "answer-inclusive error" if is_answer_hit(rollout) else "wrong"
