"""A comparison of two runs, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from introspect.evaluation.metrics.bootstrap import Interval

if TYPE_CHECKING:
    from rich.table import Table

    from introspect.evaluation.comparison import Comparison

# Name, label, factor and decimals of each row; the rows of avg@k, maj@k and pass@k follow the rates.
_RATES = (
    ("accuracy", "accuracy %", 100, 1),
    ("f1", "F1 %", 100, 1),
    ("substring_match", "substring match %", 100, 1),
    ("completion_tokens", "tokens, mean", 1, 1),
    ("completion_tokens_median", "tokens, median", 1, 1),
    ("completion_tokens_p95", "tokens, 95th pct", 1, 1),
    ("reasoning_share", "reasoning share %", 100, 1),
    ("degeneration_rate", "degenerate %", 100, 1),
    ("unparsed_rate", "unparsed %", 100, 1),
    ("answer_hit_rate", "answer hits %", 100, 1),
    ("answer_inclusive_error_rate", "answer-inclusive %", 100, 1),
    ("answer_inclusive_error_share_of_failures", "  of failures %", 100, 1),
    ("without_reasoning_rate", "no reasoning %", 100, 1),
)
_JUDGED = (
    ("judge_accuracy", "judge: accuracy %", 100, 1),
    ("judge_answer_hit_rate", "judge: answer hits %", 100, 1),
    ("judge_answer_inclusive_error_rate", "judge: answer-inclusive %", 100, 1),
    ("rrp_r", "RRP", 1, 3),
    ("rrp_rho", "  arrival rho", 1, 3),
    ("rrp_delta", "  redundancy delta", 1, 3),
    ("rrp_r_la", "RRP, length-aware", 1, 3),
    ("mqi", "MQI", 1, 2),
    ("mqi_level", "  level, 0 to 5", 1, 2),
    ("xi_overthinking", "overthinking %", 100, 1),
    ("xi_underthinking", "underthinking %", 100, 1),
    ("metacognition", "metacognition, 0 to 5", 1, 2),
)
_TOTALS = (
    ("aes", "AES", 1, 2),
    ("questions", "questions", 1, 0),
    ("n", "rollouts", 1, 0),
    ("failed", "requests failed", 1, 0),
    ("judge_unparsed", "judgments unparsed", 1, 0),
    ("judge_failed", "judgments failed", 1, 0),
)


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
    yield from (row for row in _JUDGED if row[0] in comparison.model)
    always = ("aes", "questions", "n")
    yield from (row for row in _TOTALS if row[0] in always or row[0] in comparison.model)


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
