from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.core.errors import InputError
from introspect.evaluation.metrics.bootstrap import interval, question_weights, replicates
from introspect.evaluation.metrics.statistics import Ratio
from tests.evaluation.metrics.factory import quick


def _mean(values, counts=None):
    sums = torch.tensor(values, dtype=torch.float64)
    return Ratio(sums, torch.ones_like(sums) if counts is None else torch.tensor(counts, dtype=torch.float64))


def test_every_resample_draws_as_many_questions_as_there_are():
    weights = torch.cat(list(question_weights(700, 1000, seed=3)))
    assert weights.shape == (1000, 700)
    assert (weights.sum(dim=1) == 700).all()
    assert weights.mean().item() == pytest.approx(1.0)
    # Each count is binomial(700, 1/700): variance 1 - 1/700.
    assert weights.var().item() == pytest.approx(1.0, abs=0.02)
    assert weights.mean(dim=0).std().item() == pytest.approx(math.sqrt(1 / 1000), rel=0.1)


def test_the_seed_decides_the_resamples():
    first, again, other = (torch.cat(list(question_weights(50, 10, seed=seed))) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_interval_of_a_mean_is_the_one_of_statistics():
    values = np.random.default_rng(0).normal(10, 2, 400)
    low, high = interval(replicates({"mean": _mean(values)}, 400, resamples=4000)["mean"])
    half = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_rollouts_of_one_question_are_drawn_together():
    """Ten equal rollouts per question tell no more than one; drawn singly they would shrink the interval by 3."""
    right = np.array([0.0, 1.0] * 20)
    single, repeated = (
        interval(replicates({"x": ratio}, 40)["x"]) for ratio in (_mean(right), _mean(10 * right, [10.0] * 40))
    )
    assert single == pytest.approx(repeated)
    assert single.high - single.low > 0.25


def test_a_paired_difference_cancels_what_two_runs_share():
    base = np.random.default_rng(1).normal(0, 10, 60)
    draws = replicates({"base": _mean(base), "model": _mean(base + 1.0)}, 60)
    low, high = interval(draws["model"] - draws["base"])
    assert (low, high) == pytest.approx((1.0, 1.0))
    alone = replicates({"model": _mean(base + 1.0)}, 60)
    assert torch.equal(alone["model"], draws["model"])  # the resamples do not depend on what else is asked


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12), st.integers(0, 5))
@quick
def test_the_interval_holds_the_mean_and_lies_within_the_values(values, seed):
    low, high = interval(replicates({"x": _mean(values)}, len(values), resamples=400, seed=seed)["x"])
    assert min(values) - 1e-9 <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= max(values) + 1e-9


def test_one_question_shows_no_spread():
    assert all(map(math.isnan, interval(replicates({"x": _mean([1.0])}, 1)["x"])))


def test_resamples_without_a_value_are_left_out():
    """A share of failures, where one of three questions has the only failure."""
    draws = replicates({"x": _mean([0.0, 0.0, 1.0], [0.0, 0.0, 1.0])}, 3, resamples=200)["x"]
    assert 0 < draws.isnan().sum() < 200
    assert interval(draws) == (1.0, 1.0)
    assert all(map(math.isnan, interval(torch.full((5,), torch.nan).double())))


def test_resamples_must_be_positive():
    with pytest.raises(InputError, match="bootstrap resamples: got 0, expected 1 or more"):
        replicates({"x": _mean([1.0, 2.0])}, 2, resamples=0)
