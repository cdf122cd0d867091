"""Rejection sampling: which rollouts are right enough to be learnt from.

The paper leaves its criterion open (the published training sets have a column `evaluation` that no released program
writes), so it is a setting here, and is recorded with the traces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from introspect.benchmarks.answers import exact_match, f1_score, substring_match
from introspect.benchmarks.examples import MultiHopExample
from introspect.core.errors import InputError
from introspect.evaluation.judging.judgments import Correctness, Judgment, Unparsed
from introspect.evaluation.judging.running import Judging
from introspect.evaluation.rollouts import Rollout

JUDGE = "judge"
_CORRECTNESS = "correctness"
_F1 = re.compile(r"f1\s*>=\s*(\d*\.?\d+)")
_CHOICES = "exact_match, substring, or f1>= and a number above 0, up to 1"


@dataclass(frozen=True, slots=True)
class Criterion:
    """When an answer is accepted. `name` is what is recorded; `accepts(answer, references)` decides."""

    name: str
    accepts: Callable[[str, Sequence[str]], bool]


def parse_criterion(text: str, *, others: str = "") -> Criterion:
    """The criterion that the setting `recipe.accept` names.

    Args:
        text: `exact_match` and `substring` (`metrics.answers` defines them), or `f1>=0.8`, token F1 of that or more.
        others: what else the setting can be, for the error.

    Raises:
        InputError: it is none of them.
    """
    name = str(text).strip()
    if name == "exact_match":
        return Criterion(name, lambda answer, references: exact_match(answer, references) == 1.0)
    if name == "substring":
        return Criterion(name, lambda answer, references: substring_match(answer, references) == 1.0)
    if (found := _F1.fullmatch(name)) and 0 < (least := float(found[1])) <= 1:
        return Criterion(f"f1>={least:g}", lambda answer, references: f1_score(answer, references) >= least)
    raise InputError(f"recipe.accept is {text!r}, expected {others}{_CHOICES}")


class Acceptance:
    """Decides about rollouts by a criterion, or has a judge decide.

    Args:
        accept: a criterion of `parse_criterion`, or `judge`.
        judging: who judges, and how, where `accept` is `judge`; of its scores only `correctness` is asked.

    Raises:
        InputError: there is no such criterion, or no judge.
    """

    def __init__(self, accept: str, judging: Judging | None = None) -> None:
        self._criterion = None if accept == JUDGE else parse_criterion(accept, others=f"{JUDGE}, ")
        self._judging = None
        if self._criterion is None:
            if judging is None or judging.judge is None:
                raise InputError("recipe.accept=judge needs a judge: give judge=…, other than none")
            self._judging = replace(judging, scores=(_CORRECTNESS,))

    @property
    def settings(self) -> Mapping[str, object]:
        """The criterion, and who judges."""
        if self._criterion is not None:
            return {"accept": self._criterion.name}
        assert self._judging is not None
        assert self._judging.judge is not None
        return {"accept": JUDGE, "judge": dict(self._judging.judge.identity)}

    def faults(self, rollouts: Sequence[Rollout], examples: Sequence[MultiHopExample]) -> list[str | None]:
        """Why each rollout is not accepted, None if it is, in their order.

        `wrong`; of a judge also `judge_failed` (there is no reply) and `judge_unparsed` (none that could be read).
        """
        if self._criterion is not None:
            accepts = self._criterion.accepts
            return [None if accepts(rollout.predicted_answer, rollout.references) else "wrong" for rollout in rollouts]
        assert self._judging is not None
        try:
            judged = self._judging.judged(rollouts, lambda: examples, "judge reads the rollouts")
        finally:
            self._judging.close()  # the training needs the room
        return [_fault_of(item.judgments.get(_CORRECTNESS)) for item in judged]


def _fault_of(judgment: Judgment | None) -> str | None:
    if isinstance(judgment, Correctness):
        return None if judgment.grade == "correct" else "wrong"
    return "judge_unparsed" if isinstance(judgment, Unparsed) else "judge_failed"
