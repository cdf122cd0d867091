from __future__ import annotations

import dataclasses
import io

from rich.console import Console

from introspect.evaluation.comparison import compare_runs
from introspect.evaluation.runs import Runs
from introspect.evaluation.table import comparison_table
from tests.evaluation.metrics.factory import rollout


def _lines(comparison, width):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(comparison_table(comparison))
    return [line.split() for line in console.export_text().splitlines()]


def _row(comparison, *label):
    return next(line[len(label) :] for line in _lines(comparison, 200) if line[: len(label)] == list(label))


def _run(right, tokens):
    """Twenty questions; the first `right` are answered right, and the rest wrong although the answer was found."""
    answers = ["Paris"] * right + ["Rome"] * (20 - right)
    return [
        rollout(f"q{index}", predicted=answer, reasoning="Paris", completion_tokens=tokens)
        for index, answer in enumerate(answers)
    ]


BASELINE, MODEL = _run(10, 1200), _run(15, 90)


def test_the_table_shows_each_metric_of_both_runs_and_their_difference():
    result = compare_runs(Runs(MODEL, BASELINE))
    assert ["metric", "baseline", "model", "difference"] in _lines(result, 200)
    baseline, model, difference = result.baseline_ci95, result.model_ci95, result.difference_ci95
    assert _row(result, "accuracy", "%") == [
        *("50.0", f"[{100 * baseline['accuracy'].low:.1f},", f"{100 * baseline['accuracy'].high:.1f}]"),
        *("75.0", f"[{100 * model['accuracy'].low:.1f},", f"{100 * model['accuracy'].high:.1f}]"),
        *("+25.0", f"[{100 * difference['accuracy'].low:.1f},", f"{100 * difference['accuracy'].high:.1f}]"),
    ]
    assert _row(result, "tokens,", "mean") == "1200 [1200, 1200] 90.0 [90.0, 90.0] -1110 [-1110, -1110]".split()
    assert _row(result, "AES") == [
        f"{1110 / 1200 + 1.5:.2f}",
        f"[{model['aes'].low:.2f},",
        f"{model['aes'].high:.2f}]",
    ]
    assert _row(result, "rollouts") == ["20", "20", "+0"]


def test_the_table_says_what_is_undefined_and_never_minus_zero():
    perfect = [dataclasses.replace(r, content="<answer>Paris</answer>") for r in MODEL]
    result = compare_runs(Runs(perfect, BASELINE))
    assert _row(result, "of", "failures", "%") == "100.0 [100.0, 100.0] undefined undefined".split()
    slightly = dataclasses.replace(result, difference={**result.difference, "degeneration_rate": -0.0001})
    assert _row(slightly, "degenerate", "%") == "0.0 [0.0, 0.0] 0.0 [0.0, 0.0] +0.0 [0.0, 0.0]".split()


def test_sampling_scores_have_rows_and_one_question_no_interval():
    run = [rollout("q", number, predicted=answer) for number, answer in enumerate(["Paris", "Rome"])]
    result = compare_runs(Runs(run, run))
    assert _row(result, "pass@2", "%") == ["100.0", "100.0", "+0.0"]


def test_nothing_is_cut_off_in_a_narrow_terminal():
    narrow, wide = (_lines(compare_runs(Runs(MODEL, BASELINE)), width) for width in (80, 200))
    assert not any("…" in word for line in narrow for word in line)
    words = [sorted(word for line in lines for word in line if "─" not in word) for lines in (narrow, wide)]
    assert words[0] == words[1]
