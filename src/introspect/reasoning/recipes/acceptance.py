"""Rejection sampling: which rollouts are right enough to be learnt from.

The paper leaves its criterion open (the published training sets have a column `evaluation` that no released program
writes), so it is a setting here, and is recorded with the traces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from introspect.errors import InputError
from introspect.reasoning.metrics.answers import exact_match, f1_score, substring_match

_F1 = re.compile(r"f1\s*>=\s*(\d*\.?\d+)")


@dataclass(frozen=True, slots=True)
class Criterion:
    """When an answer is accepted. `name` is what is recorded; `accepts(answer, references)` decides."""

    name: str
    accepts: Callable[[str, Sequence[str]], bool]


def parse_criterion(text: str, setting: str = "recipe.accept") -> Criterion:
    """The criterion that a setting names.

    Args:
        text: `exact_match` and `substring` (`metrics.answers` defines them), or `f1>=0.8`, token F1 of that or more.
        setting: what an error calls it.

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
    raise InputError(f"{setting} is {text!r}, expected exact_match, substring, or f1>= and a number above 0, up to 1")
