from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from introspect.core.errors import InputError
from introspect.evaluation.comparison import accuracy_efficiency_score, compare_runs, summarize
from introspect.evaluation.metrics.rollout_metrics import TokenUsage
from introspect.evaluation.runs import Runs
from tests.evaluation.metrics.factory import quick, rollout, runs

RUN = [
    rollout("a", reasoning="Paris.", predicted="Paris", completion_tokens=10, reasoning_tokens=6),
    rollout("b", reasoning="Paris?", predicted="Paris, Texas", completion_tokens=20, reasoning_tokens=14),
    rollout("c", reasoning="Rome " * 9, finish_reason="length", completion_tokens=60, reasoning_tokens=60),
    rollout("d", reasoning="", content="Paris", completion_tokens=10, reasoning_tokens=0),
]


def test_the_summary_of_four_rollouts():
    assert summarize(RUN) == pytest.approx(
        {
            "accuracy": 0.25,
            "f1": (1 + 2 / 3) / 4,
            "substring_match": 0.5,
            "completion_tokens": 25.0,
            "completion_tokens_median": 15.0,
            "completion_tokens_p95": 20 + 0.85 * 40,
            "completion_tokens_total": 100,
            "reasoning_share": 0.8,
            "answer_share": 0.2,
            "degeneration_rate": 0.25,
            "degenerations": 1,
            "unparsed_rate": 0.25,
            "unparsed": 1,
            "answer_hit_rate": 0.5,
            "answer_inclusive_error_rate": 0.25,
            "answer_inclusive_error_share_of_failures": 1 / 3,
            "without_reasoning_rate": 0.25,
            "questions": 4,
            "n": 4,
        },
        abs=1e-12,
    )


def test_scores_of_a_list_ask_no_other_rank(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the states of other ranks were gathered")

    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    monkeypatch.setattr("torchmetrics.metric.gather_all_tensors", refuse)
    assert summarize(RUN)["n"] == 4
    assert compare_runs(Runs(RUN, RUN)).model["n"] == 4
    metric = TokenUsage()
    metric.update(RUN)
    with pytest.raises(AssertionError, match="gathered"):  # as a metric does
        metric.compute()


def test_several_rollouts_per_question_add_the_sampling_scores():
    once = [rollout(example, predicted="Paris") for example in "ab"]
    assert not any("@" in name for name in summarize(once))
    twice = [*once, *(rollout(example, 1, predicted="Rome") for example in "ab")]
    summary = summarize(twice)
    assert (summary["questions"], summary["n"]) == (2, 4)
    assert {name: value for name, value in summary.items() if "@" in name} == {
        "avg@1": 1.0,
        "maj@1": 1.0,
        "pass@1": 0.5,
        "avg@2": 0.5,
        "maj@2": 1.0,
        "pass@2": 1.0,
    }
    with pytest.warns(UserWarning, match="between 1 and 2 rollouts"):
        assert not any("@" in name for name in summarize(twice[:3]))


def test_nothing_is_no_summary():
    for nothing in (lambda: summarize([]), lambda: compare_runs(Runs())):
        with pytest.raises(InputError, match="no rollouts were given"):
            nothing()
    with pytest.raises(InputError, match="baseline: no rollouts were given"):
        compare_runs(Runs(RUN, []))
    with pytest.raises(InputError, match="model: no rollouts were given"):
        compare_runs(Runs([], RUN))


def _intervals(run, **options):
    return compare_runs(Runs(run), **options).model_ci95


def _better(run):
    """The same questions, all answered right in half the tokens."""
    return [
        dataclasses.replace(
            r, content="<answer>Paris</answer>", finish_reason="stop", completion_tokens=t, reasoning_tokens=0
        )
        for r in run
        for t in [r.completion_tokens // 2]
    ]


def test_a_comparison():
    result = compare_runs(Runs(_better(RUN), RUN))
    assert result.baseline == summarize(RUN) | {"failed": 0}
    assert {name: value for name, value in result.model.items() if name != "aes"} == pytest.approx(
        summarize(_better(RUN)) | {"failed": 0}, nan_ok=True
    )
    assert result.model["aes"] == pytest.approx(0.5 + 3 * 3.0)
    assert result.difference["accuracy"] == 0.75
    assert result.difference["degenerations"] == -1
    assert math.isnan(result.difference["answer_inclusive_error_share_of_failures"])
    assert result.baseline_ci95 == _intervals(RUN)
    assert result.model_ci95["accuracy"] == (1.0, 1.0)
    assert set(result.model_ci95) == set(result.baseline_ci95) | {"aes"}
    # The model is always right, so the difference is as uncertain as the baseline.
    low, high = result.baseline_ci95["accuracy"]
    assert result.difference_ci95["accuracy"] == pytest.approx((1 - high, 1 - low))


def test_a_run_against_itself_differs_in_nothing():
    result = compare_runs(Runs(RUN[::-1], RUN))
    assert result.model["aes"] == 0
    for bounds in (*result.difference_ci95.values(), *((value, value) for value in result.difference.values())):
        assert bounds == (0.0, 0.0)


def test_the_seed_decides_the_intervals():
    first, again, other = (_intervals(RUN, resamples=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.filterwarnings("ignore:questions have between")
@given(runs())
@settings(quick, max_examples=8)
def test_the_intervals_of_rates_hold_the_rates(run):
    values, intervals = summarize(run), _intervals(run, resamples=200)
    for name in ("accuracy", "f1", "degeneration_rate", "answer_hit_rate", "reasoning_share"):
        low, high = intervals[name]
        assert (values["questions"] < 2 and math.isnan(low)) or 0 <= low <= values[
            name
        ] + 1e-9 <= high + 2e-9 <= 1 + 2e-9


def test_runs_over_different_questions_are_not_compared():
    with pytest.raises(InputError, match="1 are only in the baseline and 0 only in the model, for example id 'd'"):
        compare_runs(Runs(RUN[:3], RUN))
    reworded = [*RUN[:3], dataclasses.replace(RUN[3], question="Another?")]
    with pytest.raises(InputError, match="1 are only in the baseline and 1 only in the model, for example id 'd'"):
        compare_runs(Runs(reworded, RUN))


def test_the_json_is_the_metrics_file(tmp_path):
    content = json.loads(json.dumps(compare_runs(Runs(_better(RUN), RUN)).to_json(), allow_nan=False))
    assert set(content) == {"baseline", "model"}
    required = {"accuracy", "f1", "completion_tokens", "degeneration_rate", "answer_inclusive_error_rate", "n"}
    assert required | {"ci95"} <= set(content["baseline"])
    assert required | {"ci95", "aes", "difference", "difference_ci95"} <= set(content["model"])
    assert "aes" not in content["baseline"]
    assert content["baseline"]["accuracy"] == 0.25
    assert content["baseline"]["n"] == 4
    assert isinstance(content["baseline"]["n"], int)
    assert content["model"]["ci95"]["accuracy"] == [1.0, 1.0]
    assert content["model"]["answer_inclusive_error_share_of_failures"] is None  # nothing failed
    assert content["model"]["ci95"]["answer_inclusive_error_share_of_failures"] == [None, None]


def test_a_baseline_that_is_never_right_leaves_aes_undefined():
    wrong = [dataclasses.replace(r, content="<answer>Rome</answer>") for r in RUN]
    result = compare_runs(Runs(RUN, wrong))
    assert math.isnan(result.model["aes"])
    assert result.to_json()["model"]["aes"] is None


def test_ranks_sort_the_same_questions_alike():
    torch.manual_seed(0)
    order = torch.randperm(len(RUN)).tolist()
    assert _intervals([RUN[index] for index in order]) == _intervals(RUN)


def aes(accuracy, tokens, base_accuracy, base_tokens, **weights):
    numbers = torch.tensor([accuracy, tokens, base_accuracy, base_tokens], dtype=torch.float64)
    return accuracy_efficiency_score(*numbers, **weights).item()


def test_the_published_score_of_marco_o1_on_math():
    """O1-Pruner, table 1: 73.8 % in 1156 tokens pruned to 77.5 % in 657."""
    assert aes(77.5, 657, 73.8, 1156) == pytest.approx(0.58, abs=0.005)


def test_a_loss_of_accuracy_weighs_more_than_a_gain():
    assert aes(0.5, 50, 0.4, 100) == pytest.approx(0.5 + 3 * 0.25)
    assert aes(0.3, 50, 0.4, 100) == pytest.approx(0.5 - 5 * 0.25)
    assert aes(0.3, 150, 0.4, 100, alpha=2, beta=7, gamma=10) == pytest.approx(-1.0 - 2.5)
    assert aes(0.5, 150, 0.4, 100, alpha=2, beta=7, gamma=10) == pytest.approx(-1.0 + 1.75)


@pytest.mark.parametrize("base", [(0.0, 100), (0.5, 0)])
def test_nothing_is_relative_to_nothing(base):
    assert math.isnan(aes(0.5, 50, *base))


POSITIVE = st.floats(0.01, 1.0)
TOKENS = st.floats(1, 10_000)


@given(POSITIVE, TOKENS)
@quick
def test_the_baseline_scores_nothing_against_itself(accuracy, tokens):
    assert aes(accuracy, tokens, accuracy, tokens) == 0


@given(POSITIVE, TOKENS, POSITIVE, TOKENS)
@quick
def test_the_signs_follow_the_parts(accuracy, tokens, base_accuracy, base_tokens):
    saved = aes(base_accuracy, tokens, base_accuracy, base_tokens)
    assert math.copysign(1, saved) == math.copysign(1, base_tokens - tokens) or saved == 0
    gained = aes(accuracy, base_tokens, base_accuracy, base_tokens)
    assert math.copysign(1, gained) == math.copysign(1, accuracy - base_accuracy) or gained == 0
    together = aes(accuracy, tokens, base_accuracy, base_tokens)
    assert together == pytest.approx(saved + gained, abs=1e-9)


@given(POSITIVE, TOKENS, POSITIVE, TOKENS)
@quick
def test_the_unit_of_accuracy_does_not_matter(accuracy, tokens, base_accuracy, base_tokens):
    fraction = aes(accuracy, tokens, base_accuracy, base_tokens)
    percent = aes(100 * accuracy, tokens, 100 * base_accuracy, base_tokens)
    assert fraction == pytest.approx(percent, abs=1e-9)
