from __future__ import annotations

import json
import math
from collections import defaultdict
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.benchmarks.answers import normalize_answer
from introspect.evaluation.metrics.rollout_metrics import RolloutMetrics
from introspect.evaluation.metrics.sampling import average_at_k, majority_at_k, pass_at_k, sampling_statistics
from introspect.evaluation.metrics.statistics import point_estimates
from tests.evaluation.metrics.factory import quick, rollout, runs


def _scores(run):
    metric = RolloutMetrics()
    metric.update(run)
    records = metric.records()
    found = point_estimates(sampling_statistics(records, "accuracy"), records.questions)
    return {name: value.item() for name, value in found.items()}


def test_average_and_majority_read_the_first_k():
    scores = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.5, 0.0, 1.0, 1.0]])
    votes = torch.tensor([[7, 5, 5, 7], [1, 2, 3, 3]])
    assert average_at_k(scores, 2).tolist() == [0.5, 0.25]
    assert average_at_k(scores, 4).tolist() == [0.5, 0.625]
    assert majority_at_k(scores, votes, 1).tolist() == [0.0, 0.5]
    assert majority_at_k(scores, votes, 3).tolist() == [1.0, 0.5]  # 5 has two votes; of 1, 2, 3 the first wins
    assert majority_at_k(scores, votes, 4).tolist() == [0.0, 1.0]  # a tie of 7 and 5 goes to the first; 3 has two


@given(st.integers(1, 40), st.data())
@quick
def test_pass_at_k_is_the_chance_of_a_hit_in_a_draw_of_k(total, data):
    correct = data.draw(st.integers(0, total))
    chances = [pass_at_k(torch.tensor([correct]), torch.tensor([total]), k).item() for k in range(1, total + 1)]
    exact = [1 - Fraction(math.comb(total - correct, k), math.comb(total, k)) for k in range(1, total + 1)]
    assert chances == pytest.approx([float(chance) for chance in exact], abs=1e-12)
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(chances))
    assert chances[0] == pytest.approx(correct / total)
    assert chances[-1] == float(correct > 0)


def test_pass_at_k_is_stable_for_many_rollouts():
    chance = pass_at_k(torch.tensor([1, 1000]), torch.tensor([10**9, 10**6]), 1000)
    exact = [1e-6, float(1 - Fraction(math.comb(10**6 - 1000, 1000), math.comb(10**6, 1000)))]
    assert chance.tolist() == pytest.approx(exact, rel=1e-9)


def test_pass_at_k_needs_k_rollouts():
    with pytest.raises(ValueError, match="pass@4 needs 4 rollouts of every question; one has 3"):
        pass_at_k(torch.tensor([1, 1]), torch.tensor([4, 3]), 4)


def test_the_metric_orders_rollouts_by_id_and_votes_on_normalised_answers():
    answers = {"a": ["Rome", "Paris", "paris!", "Oslo"], "b": ["", "Paris", "", "Rome"]}
    run = [rollout(q, number, predicted=text) for q, texts in answers.items() for number, text in enumerate(texts)]
    expected = {
        "avg@1": 0.0,
        "maj@1": 0.0,
        "pass@1": (1 / 2 + 1 / 4) / 2,
        "avg@2": 0.5,
        "maj@2": 0.0,
        "pass@2": ((1 - 1 / 6) + 1 / 2) / 2,
        "avg@4": (1 / 2 + 1 / 4) / 2,
        "maj@4": 0.5,  # "Paris" and "paris!" are one answer; two empty answers win the other question
        "pass@4": 1.0,
    }
    assert _scores(run) == pytest.approx(expected, abs=1e-12)
    assert _scores(run[::-1]) == pytest.approx(expected, abs=1e-12)


def test_a_k_that_only_some_questions_reach_is_left_out_with_a_warning():
    run = [rollout("a", number, predicted="Paris") for number in range(4)]
    run += [rollout("b", number, predicted="Rome") for number in range(2)]
    with pytest.warns(UserWarning, match=r"between 2 and 4 rollouts: .* stop at k = 2"):
        scores = _scores(run)
    assert scores == {"avg@1": 0.5, "maj@1": 0.5, "pass@1": 0.5, "avg@2": 0.5, "maj@2": 0.5, "pass@2": 0.5}


@pytest.mark.filterwarnings("ignore:questions have between")
@given(runs())
@quick
def test_more_draws_pass_more_often(run):
    scores = _scores(run)
    passed = [value for name, value in scores.items() if name.startswith("pass@")]
    assert passed == sorted(passed) or passed == pytest.approx(sorted(passed), abs=1e-12)
    assert all(-1e-12 <= value <= 1 + 1e-12 for value in scores.values())


@pytest.fixture(scope="module")
def golden(shared):
    cases = json.loads((shared / "golden" / "qa_metrics.json").read_text(encoding="utf-8"))
    return [case for case in cases if case["fn"] == "aggregate_metrics"]


def _aggregate(rows, metric, key):
    """avg@k, maj@k and pass@k in per cent of rows in the given order, votes told apart by `key`."""
    questions = defaultdict(list)
    for row in rows:
        questions[row["sample_id"]].append(row)
    fewest = min(map(len, questions.values()))
    ballots = {answer: number for number, answer in enumerate(sorted({key(row["predicted_answer"]) for row in rows}))}
    scores = torch.tensor([[row[metric] for row in group[:fewest]] for group in questions.values()]).double()
    votes = torch.tensor([[ballots[key(row["predicted_answer"])] for row in g[:fewest]] for g in questions.values()])
    total = torch.tensor([len(group) for group in questions.values()])
    correct = torch.tensor([sum(row[metric] == 1 for row in group) for group in questions.values()])
    result = {}
    for k in (2**power for power in range(fewest.bit_length())):
        result[f"avg@{k}"] = average_at_k(scores, k)
        result[f"maj@{k}"] = majority_at_k(scores, votes, k)
        result[f"pass@{k}"] = pass_at_k(correct, total, k)
    return {name: 100 * values.double().mean().item() for name, values in result.items()}


def _differences(case, key):
    """(metric, name) -> (reference, ours) wherever both have a number and they differ by more than rounding."""
    found = {}
    for metric, expected in case["output"].items():
        if not expected:
            continue
        ours = _aggregate(case["inputs"]["rows"], metric, key)
        for name in expected.keys() & ours.keys():
            if abs(expected[name] - ours[name]) > 0.01:
                found[metric, name] = (expected[name], round(ours[name], 2))
    return found


def test_with_the_reference_s_votes_every_aggregate_agrees(golden):
    assert len(golden) == 10
    for case in golden:
        assert _differences(case, key=str) == {}, case["id"]


def test_votes_on_normalised_answers_differ_where_spellings_split_the_majority(golden):
    """Of eight answers, "shot", "SHOT!" and "shot" are one with three votes; the reference sees 2, 1 and ties."""
    differences = {case["id"]: found for case in golden if (found := _differences(case, key=normalize_answer))}
    assert differences == {
        "dev-069": {
            ("exact_match", "maj@8"): (0.0, 100.0),
            ("f1_score", "maj@8"): (40.0, 100.0),
            ("llm_as_judge", "maj@8"): (0.0, 100.0),
        }
    }


def test_the_first_k_are_those_with_the_lowest_ids_not_those_that_the_file_names_first(golden):
    case = next(case for case in golden if case["id"] == "dev-069")
    ordered = sorted(case["inputs"]["rows"], key=lambda row: row["rollout_id"])
    assert case["output"]["f1_score"]["avg@1"] == 0.0  # rollout 5, the first in the file
    assert _aggregate(ordered, "f1_score", str)["avg@1"] == pytest.approx(40.0)  # rollout 1


def test_the_reference_averages_a_k_over_the_questions_that_reach_it(golden):
    """Of questions with 3 and 5 rollouts, the reference's @4 describes the second alone; here @2 is the last."""
    case = next(case for case in golden if case["tags"] == ["mix", "sizes=3,5"])
    second = [row for row in case["inputs"]["rows"] if row["sample_id"] == 2]
    reference = case["output"]["exact_match"]
    alone = _aggregate(second, "exact_match", str)
    assert [reference[name] for name in ("avg@4", "maj@4", "pass@4")] == pytest.approx(
        [alone[name] for name in ("avg@4", "maj@4", "pass@4")], abs=0.01
    )
    assert set(_aggregate(case["inputs"]["rows"], "exact_match", str)) == set(reference) - {"avg@4", "maj@4", "pass@4"}
