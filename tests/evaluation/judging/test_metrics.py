"""Metrics of judged rollouts: small exact cases, and what is not known stays out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from introspect.evaluation.comparison import compare_runs, summarize
from introspect.evaluation.judging.judges import JUDGES
from introspect.evaluation.judging.judgments import (
    AnswerHit,
    Correctness,
    Effective,
    Failed,
    Judged,
    Judgment,
    Metacognition,
    Profile,
    Quality,
    Unparsed,
)
from introspect.evaluation.judging.metrics import (
    BaseLengths,
    JudgedRun,
    JudgeMetrics,
    arrival,
    arrival_against,
    quality_index,
    reach_redundancy,
    redundancy,
    redundancy_against,
    wasted,
)
from introspect.evaluation.judging.running import JudgedRuns
from introspect.evaluation.runs import Runs
from tests.evaluation.metrics.factory import quick, rollout, runs

# Four paragraphs of 2, 1, 1 and 4 sentences, and of 2, 1, 3 and 4 words.
TRACE = "One. Two.\n\nThree?\n\nAnd then four\n\nA! B! C! D!"


def judged(
    name: str = "q", *, number: int = 0, right: bool = True, trace: str = TRACE, **judgments: Judgment
) -> Judged:
    about = rollout(name, number, predicted="Paris" if right else "Rome", reasoning=trace, completion_tokens=50)
    return Judged(about, judgments)


def numbers(metric: Any, *items: Judged) -> dict[str, float]:
    metric.update(items)
    return {name: value.item() for name, value in metric.compute().items()}


def test_answers() -> None:
    found = numbers(
        JudgeMetrics(("correctness", "answer_hit")),
        judged("a", correctness=Correctness("correct"), answer_hit=AnswerHit(hit=True)),
        judged("b", right=False, correctness=Correctness("not_attempted"), answer_hit=AnswerHit(hit=True)),
        judged("c", right=False, correctness=Correctness("incorrect"), answer_hit=AnswerHit(hit=False)),
        judged("d", right=False, correctness=Unparsed("empty"), answer_hit=Failed()),
    )
    assert found == {
        "judge_accuracy": pytest.approx(1 / 3),
        "judge_answer_hit_rate": pytest.approx(2 / 3),
        "judge_answer_inclusive_error_rate": pytest.approx(1 / 3),
        "judge_answer_inclusive_error_share_of_failures": 0.5,
        "judge_unparsed": 1,
        "judge_failed": 1,
    }


def test_profiles() -> None:
    found = numbers(
        JudgeMetrics(("rrp",), BaseLengths(sentences=16)),
        judged("a", rrp=Profile(1, (), 0.9)),  # rho 2/8, delta 0
        judged("b", right=False, rrp=Profile(3, (1, 2, 3), 0.4)),  # rho 4/8, delta 4/8
        judged("c", right=False, rrp=Profile(0, (4,), 0.5)),  # never: rho 1, delta 4/8
        judged("d", rrp=Unparsed("empty")),
    )
    assert found["rrp_rho"] == pytest.approx((1 / 4 + 1 / 2 + 1) / 3)
    assert found["rrp_delta"] == pytest.approx(1 / 3)
    # Harmonic means of (3/4, 1), (1/2, 1/2) and (0, 1/2).
    assert found["rrp_r"] == pytest.approx((6 / 7 + 1 / 2 + 0) / 3)
    assert found["rrp_rho_la"] == pytest.approx((2 / 16 + 4 / 16 + 1) / 3)
    assert found["rrp_delta_la"] == pytest.approx((0 + 4 / 16 + 4 / 16) / 3)
    assert found["rrp_r_la"] == pytest.approx((2 * (7 / 8) / (15 / 8) + 3 / 4 + 0) / 3)
    assert found["rrp_reached_rate"] == pytest.approx(2 / 3)
    assert found["rrp_sentences"] == 8
    assert found["rrp_confidence_gamma"] == 1
    assert (found["judge_unparsed"], found["judge_failed"]) == (1, 0)
    assert "rrp_r_la" not in numbers(JudgeMetrics(("rrp",)), judged(rrp=Profile(1, (), 1.0)))


def test_a_trace_that_is_missing_derives_nothing() -> None:
    found = numbers(JudgeMetrics(("rrp",), BaseLengths(sentences=4)), judged(trace="", rrp=Profile(0, (), 1.0)))
    names = ("rrp_rho", "rrp_delta", "rrp_r", "rrp_rho_la", "rrp_delta_la", "rrp_r_la")
    assert [found[name] for name in names] == [1, 0, 0, 1, 0, 0]
    assert math.isnan(found["rrp_confidence_gamma"])


def test_quality() -> None:
    short = judged("a", mqi=Quality(5, (1, 2, 3, 4, 5), 0.9))
    long = judged("b", right=False, mqi=Quality(1, (), 0.9))
    long = Judged(rollout("b", predicted="Rome", reasoning=TRACE, completion_tokens=150), long.judgments)
    found = numbers(JudgeMetrics(("mqi",), BaseLengths(tokens=200)), short, long, judged("c", mqi=Failed()))
    assert found["mqi_level"] == 3
    assert found["mqi"] == 3 * 200 / 100
    assert found["mqi_per_rollout"] == pytest.approx((5 * 200 / 50 + 1 * 200 / 150) / 2)
    assert found["phase_planning_rate"] == 0.5
    assert math.isnan(found["mqi_confidence_gamma"])  # tied
    assert (found["judge_unparsed"], found["judge_failed"]) == (0, 1)
    assert "mqi" not in numbers(JudgeMetrics(("mqi",)), short)


def test_waste_is_counted_in_words_on_either_side_of_right() -> None:
    found = numbers(
        JudgeMetrics(("overthinking", "underthinking")),
        judged("a", overthinking=Effective(2)),
        judged("b", overthinking=Effective(4)),
        judged("c", right=False, underthinking=Effective(0)),
        judged("d", right=False, underthinking=Unparsed("empty")),
    )
    assert found["xi_overthinking"] == pytest.approx((7 / 10 + 0) / 2)
    assert found["xi_underthinking"] == 1
    assert found["judge_unparsed"] == 1
    assert numbers(JudgeMetrics(("metacognition",)), judged(metacognition=Metacognition(4)))["metacognition"] == 4


def test_nothing_known_is_nothing() -> None:
    found = numbers(
        JudgeMetrics(tuple(JUDGES), BaseLengths(100, 10)), judged(**{name: Unparsed("empty") for name in JUDGES})
    )
    assert found.pop("judge_unparsed") == len(JUDGES)
    assert found.pop("judge_failed") == 0
    assert found.pop("rrp_sentences") == 8
    assert all(math.isnan(value) for value in found.values()), found


def scripted(about: Any, draw: Any) -> Judged:
    def some(result: Judgment) -> Judgment:
        return draw(st.sampled_from([result, result, Unparsed("empty"), Failed()]))

    count = 1 if about.reasoning else 0
    first = draw(st.integers(0, count))
    level = draw(st.integers(0, 5))
    profile = Profile(first, tuple(range(1, 1 + draw(st.integers(0, count)))), draw(st.floats(0, 1)))
    judgments = {
        "correctness": some(Correctness(draw(st.sampled_from(["correct", "incorrect", "not_attempted"])))),
        "answer_hit": some(AnswerHit(hit=draw(st.booleans()))),
        "rrp": some(profile),
        "mqi": some(Quality(level, tuple(range(1, level + 1)), draw(st.floats(0, 1)))),
        "metacognition": some(Metacognition(level)),
        draw(st.sampled_from(["overthinking", "underthinking"])): some(Effective(first)),
    }
    return Judged(about, judgments)


@quick
@given(st.data())
def test_order_and_batches_do_not_matter_and_bounds_hold(data: st.DataObject) -> None:
    items = [scripted(about, data.draw) for about in data.draw(runs())]
    whole, parts = (JudgeMetrics(tuple(JUDGES), BaseLengths(20.0, 2.0)) for _ in range(2))
    whole.update(items)
    cut = data.draw(st.integers(0, len(items)))
    parts.update(items[cut:][::-1])
    parts.update(items[:cut])
    first, second = whole.compute(), parts.compute()
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], equal_nan=True)
        if not value.isnan() and not name.startswith(("mqi", "metacog", "judge_unparsed", "judge_failed")):
            low, high = (-1, 1) if name.endswith("gamma") else (0, 20 if name == "rrp_sentences" else 1)
            assert low <= value <= high, name


def test_a_summary_has_both_kinds_of_numbers_and_paired_intervals() -> None:
    before = [judged(f"q{n}", right=n % 3 == 0, correctness=Correctness("incorrect")) for n in range(12)]
    after = [judged(f"q{n}", correctness=Correctness("correct" if n % 2 else "incorrect")) for n in range(12)]
    pair = JudgedRuns({}, JudgedRun(before, ("correctness",)), JudgedRun(after, ("correctness",)))
    sides = [[item.rollout for item in side] for side in (before, after)]
    comparison = compare_runs(Runs(sides[1], sides[0]), pair, resamples=200)
    assert comparison.model["judge_accuracy"] == comparison.difference["judge_accuracy"] == 0.5
    assert comparison.model["accuracy"] == 1
    low, high = comparison.difference_ci95["judge_accuracy"]
    assert 0 < low < 0.5 < high < 1
    assert comparison.difference["judge_unparsed"] == 0
    assert comparison.to_json()["model"]["judge_failed"] == 0
    assert "judge_accuracy" not in summarize(sides[0])
    with pytest.raises(ValueError, match="not those of the run"):
        summarize(sides[0][1:], pair.baseline)


def number(value: float) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


def test_profiles_have_the_numbers_of_the_reference(shared: Path) -> None:
    cases = [case for case in json.loads((shared / "golden/trace_metrics.json").read_text()) if case["fn"] == "rrp"]
    assert len(cases) == 17
    for case in cases:
        parsed, expected, base = case["output"]["parsed"], case["output"]["derived"], case["inputs"]["T_base_sentences"]
        first, redundant, total = (
            number(parsed[name]) for name in ("first_correct", "redundant_sentences", "total_sentences")
        )
        rho, delta = arrival(first, total), redundancy(redundant, total)
        rho_la, delta_la = arrival_against(first, base), redundancy_against(redundant, base)
        found = {"rho": rho, "delta_r": delta, "R": reach_redundancy(rho, delta)}
        found |= {"rho_la": rho_la, "delta_la": delta_la, "R_la": reach_redundancy(rho_la, delta_la)}
        for name, value in found.items():
            # null is 0/0 there, and 0 here: such a trace is as bad as can be.
            assert value.item() == pytest.approx(expected[name] or 0.0, abs=1e-12), (case["id"], name)


def test_quality_indices_are_those_of_the_reference(shared: Path) -> None:
    cases = json.loads((shared / "golden/trace_metrics.json").read_text())
    indices = []
    for case in (case for case in cases if case["fn"] == "mqi"):
        inputs, level = case["inputs"], case["output"]["parsed"]["l_obs"]
        index = quality_index(number(level), number(inputs["T_i_tokens"]), inputs["T_base_tokens"]).item()
        assert index == pytest.approx(case["output"]["derived"]["MQI"], abs=1e-12)
        indices.append(index)
    (bar,) = (case for case in cases if case["fn"] == "mqi_bar")
    assert sum(indices) / len(indices) == pytest.approx(bar["output"], abs=1e-12)


def test_by_hand() -> None:
    first, redundant, total = torch.tensor([[2, 4, -1, -1], [0, 2, 4, 0], [4, 4, 4, 0]], dtype=torch.float64)
    rho, delta = arrival(first, total), redundancy(redundant, total)
    assert rho.tolist() == [0.5, 1, 1, 1]
    assert delta.tolist() == [0, 0.5, 1, 0]
    assert reach_redundancy(rho, delta).tolist() == pytest.approx([2 / 3, 0, 0, 0])
    assert arrival_against(first, 8).tolist() == [0.25, 0.5, 1, 1]
    assert redundancy_against(redundant, 2).tolist() == [0, 1, 1, 0]
    assert quality_index(number(3), number(200), 400).item() == 6
    assert math.isnan(quality_index(number(3), number(0), 400).item())
    assert wasted(number(30), number(40)).item() == 0.25
    assert math.isnan(wasted(number(0), number(0)).item())


@quick
@given(st.data())
def test_profiles_stay_in_bounds_and_reward_what_they_should(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 60))
    first = data.draw(st.sampled_from([-1, *range(1, total + 1)]))
    redundant = data.draw(st.integers(0, total))
    base = data.draw(st.floats(0.5, 100))
    for rho, delta in (
        (arrival(number(first), number(total)), redundancy(number(redundant), number(total))),
        (arrival_against(number(first), base), redundancy_against(number(redundant), base)),
    ):
        score = reach_redundancy(rho, delta).item()
        assert 0 <= rho <= 1
        assert 0 <= delta <= 1
        assert 0 <= score <= 1
        assert min(1 - rho, 1 - delta) - 1e-12 <= score <= max(1 - rho, 1 - delta) + 1e-12
        assert reach_redundancy(delta, rho).item() == pytest.approx(score)
        if redundant:
            leaner = redundancy(number(redundant - 1), number(total))
            assert reach_redundancy(rho, torch.minimum(leaner, delta)).item() >= score - 1e-12
