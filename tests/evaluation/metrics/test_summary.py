from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings

from introspect.core.errors import InputError
from introspect.evaluation.metrics import (
    F1,
    AccuracyEfficiencyScore,
    AnswerHitRate,
    AnswerInclusiveErrorRate,
    DegenerationCount,
    DegenerationRate,
    ExactMatch,
    SamplingScores,
    SubstringMatch,
    TokenUsage,
    UnparsedCount,
    UnparsedRate,
    compare_runs,
    confidence_intervals,
    summarize,
)
from introspect.evaluation.rollouts import load_rollouts, save_rollouts
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
    assert compare_runs(RUN, RUN).model["n"] == 4
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
    for call in (summarize, confidence_intervals):
        with pytest.raises(InputError, match="no rollouts were given"):
            call([])
    with pytest.raises(InputError, match="baseline: no rollouts were given"):
        compare_runs([], RUN)
    with pytest.raises(InputError, match="model: no rollouts were given"):
        compare_runs(RUN, [])


@pytest.mark.filterwarnings("ignore:questions have between")
@given(runs())
@settings(quick, max_examples=12)
def test_the_summary_agrees_with_the_single_metrics(run):
    summary = summarize(run)
    singles = {
        "accuracy": ExactMatch(),
        "f1": F1(),
        "substring_match": SubstringMatch(),
        "degeneration_rate": DegenerationRate(),
        "degenerations": DegenerationCount(),
        "unparsed_rate": UnparsedRate(),
        "unparsed": UnparsedCount(),
        "answer_hit_rate": AnswerHitRate(),
        "answer_inclusive_error_rate": AnswerInclusiveErrorRate(),
    }
    for name, metric in singles.items():
        metric.update(run)
        assert summary[name] == pytest.approx(metric.compute().item(), abs=1e-12), name
    for several in (TokenUsage(), SamplingScores()):
        several.update(run)
        for name, value in several.compute().items():
            if name in summary or "@" not in name:
                assert summary[name] == pytest.approx(value.item(), abs=1e-12), name


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
    result = compare_runs(RUN, _better(RUN))
    assert result.baseline == summarize(RUN)
    assert {name: value for name, value in result.model.items() if name != "aes"} == pytest.approx(
        summarize(_better(RUN)), nan_ok=True
    )
    assert result.model["aes"] == pytest.approx(0.5 + 3 * 3.0)
    aes = AccuracyEfficiencyScore(result.baseline["accuracy"], result.baseline["completion_tokens"])
    aes.update(_better(RUN))
    assert result.model["aes"] == pytest.approx(aes.compute().item())
    assert result.difference["accuracy"] == 0.75
    assert result.difference["degenerations"] == -1
    assert math.isnan(result.difference["answer_inclusive_error_share_of_failures"])
    assert result.baseline_ci95 == confidence_intervals(RUN)
    assert result.model_ci95["accuracy"] == (1.0, 1.0)
    assert set(result.model_ci95) == set(result.baseline_ci95) | {"aes"}
    # The model is always right, so the difference is as uncertain as the baseline.
    low, high = result.baseline_ci95["accuracy"]
    assert result.difference_ci95["accuracy"] == pytest.approx((1 - high, 1 - low))


def test_a_run_against_itself_differs_in_nothing():
    result = compare_runs(RUN, RUN[::-1])
    assert result.model["aes"] == 0
    for bounds in (*result.difference_ci95.values(), *((value, value) for value in result.difference.values())):
        assert bounds == (0.0, 0.0)


def test_the_seed_decides_the_intervals():
    first, again, other = (confidence_intervals(RUN, resamples=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.filterwarnings("ignore:questions have between")
@given(runs())
@settings(quick, max_examples=8)
def test_the_intervals_of_rates_hold_the_rates(run):
    values, intervals = summarize(run), confidence_intervals(run, resamples=200)
    for name in ("accuracy", "f1", "degeneration_rate", "answer_hit_rate", "reasoning_share"):
        low, high = intervals[name]
        assert (values["questions"] < 2 and math.isnan(low)) or 0 <= low <= values[
            name
        ] + 1e-9 <= high + 2e-9 <= 1 + 2e-9


def test_runs_over_different_questions_are_not_compared():
    with pytest.raises(InputError, match="1 are only in the baseline and 0 only in the model, for example id 'd'"):
        compare_runs(RUN, RUN[:3])
    reworded = [*RUN[:3], dataclasses.replace(RUN[3], question="Another?")]
    with pytest.raises(InputError, match="1 are only in the baseline and 1 only in the model, for example id 'd'"):
        compare_runs(RUN, reworded)


def test_the_json_is_the_metrics_file(tmp_path):
    content = json.loads(json.dumps(compare_runs(RUN, _better(RUN)).to_json(), allow_nan=False))
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
    result = compare_runs(wrong, RUN)
    assert math.isnan(result.model["aes"])
    assert result.to_json()["model"]["aes"] is None


def test_saved_rollouts_score_the_same(tmp_path):
    save_rollouts(RUN, tmp_path / "rollouts.parquet")
    assert summarize(load_rollouts(tmp_path / "rollouts.parquet")) == summarize(RUN)


def test_ranks_sort_the_same_questions_alike():
    torch.manual_seed(0)
    order = torch.randperm(len(RUN)).tolist()
    assert confidence_intervals([RUN[index] for index in order]) == confidence_intervals(RUN)
