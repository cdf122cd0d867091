"""A comparison of two runs, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from introspect.reasoning.metrics.bootstrap import Interval

if TYPE_CHECKING:
    from rich.table import Table

    from introspect.reasoning.metrics.summary import Comparison

# Name, label, factor and decimals of each row; the rows of avg@k, maj@k and pass@k follow the rates.
_RATES = (
    ("accuracy", "accuracy %", 100, 1),
    ("f1", "F1 %", 100, 1),
    ("substring_match", "substring match %", 100, 1),
    ("completion_tokens", "tokens, mean", 1, 1),
    ("completion_tokens_median", "tokens, median", 1, 1),
    ("completion_tokens_p95", "tokens, 95th pct", 1, 1),
    ("reasoning_share", "reasoning share %", 100, 1),
    ("degeneration_rate", "degenerations %", 100, 1),
    ("unparsed_rate", "unparsed %", 100, 1),
    ("answer_hit_rate", "answer hits %", 100, 1),
    ("answer_inclusive_error_rate", "answer-inclusive %", 100, 1),
    ("answer_inclusive_error_share_of_failures", "  of failures %", 100, 1),
    ("without_reasoning_rate", "no reasoning %", 100, 1),
)
_TOTALS = (("aes", "AES", 1, 2), ("questions", "questions", 1, 0), ("n", "rollouts", 1, 0))


def comparison_table(comparison: Comparison) -> Table:
    """Baseline, model and difference of each number, with their 95 % intervals in brackets."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.caption = "in brackets: 95 % bootstrap intervals over questions"
    table.add_column("metric", no_wrap=True)
    for column in ("baseline", "model", "difference"):
        table.add_column(column, justify="right")
    sides = (
        (comparison.baseline, comparison.baseline_ci95, ""),
        (comparison.model, comparison.model_ci95, ""),
        (comparison.difference, comparison.difference_ci95, "+"),
    )
    for name, label, factor, decimals in _rows(comparison):
        cells = (
            _cell(values.get(name), intervals.get(name), factor, decimals, sign) for values, intervals, sign in sides
        )
        table.add_row(label, *cells)
    return table


def _rows(comparison: Comparison) -> Iterator[tuple[str, str, int, int]]:
    yield from _RATES
    yield from ((name, f"{name} %", 100, 1) for name in comparison.model if "@" in name)
    yield from _TOTALS


def _cell(value: float | None, bounds: Interval | None, factor: int, decimals: int, sign: str) -> str:
    if value is None:
        return ""
    if math.isnan(value):
        return "undefined"
    if factor == 1 and abs(value) >= 100:
        decimals = 0
    form = f"z.{decimals}f"  # z: never "-0.0"
    shown = f"{value * factor:{sign}{form}}"
    if bounds is None or math.isnan(bounds.low):
        return shown
    return f"{shown} [{bounds.low * factor:{form}}, {bounds.high * factor:{form}}]"
