"""How a rollout ended: right, wrong, degenerate, without an answer, or with the right answer found and abandoned."""

from __future__ import annotations

import re
from collections.abc import Sequence

from introspect.benchmarks.answers import exact_match, normalize_answer
from introspect.evaluation.rollouts import Rollout


def is_degenerate(rollout: Rollout) -> bool:
    """Whether the rollout did not end by itself."""
    return not rollout.finished


def is_unparsed(rollout: Rollout) -> bool:
    """Whether the rollout ended by itself without a readable `<answer>`; it counts as wrong, and is counted here."""
    return rollout.finished and not rollout.predicted_answer


def answer_hit(reasoning: str, references: Sequence[str]) -> bool:
    """Whether the normalised reasoning contains a normalised, non-empty reference as whole words."""
    trace = normalize_answer(reasoning)
    answers = [answer for reference in references if (answer := normalize_answer(reference))]
    return any(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", trace) for answer in answers)


def is_wrong(rollout: Rollout) -> bool:
    """Whether the final answer equals no accepted one."""
    return not exact_match(rollout.predicted_answer, rollout.references)


def is_answer_inclusive_error(rollout: Rollout) -> bool:
    """Whether the final answer is wrong by exact match although the reasoning hit a right one."""
    return is_wrong(rollout) and answer_hit(rollout.reasoning, rollout.references)


def verdict(rollout: Rollout) -> str:
    """`right`, or what went wrong: `endless`, `no answer`, `lost` (an answer-inclusive error) or `wrong`."""
    if exact_match(rollout.predicted_answer, rollout.references):
        return "right"
    if is_degenerate(rollout):
        return "endless"
    if is_unparsed(rollout):
        return "no answer"
    return "lost" if is_answer_inclusive_error(rollout) else "wrong"
