from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.evaluation.metrics.statistics import Quantile, Ratio, Statistic, point_estimates
from tests.evaluation.metrics.factory import quick


def test_a_ratio_weighs_its_questions():
    ratio = Ratio(torch.tensor([1.0, 0.0, 3.0]).double(), torch.tensor([2.0, 1.0, 3.0]).double())
    weights = torch.tensor([[1, 1, 1], [2, 0, 1], [0, 3, 0]]).double()
    assert ratio.estimate(weights).tolist() == [4 / 6, 5 / 7, 0.0]


def test_a_ratio_over_nothing_is_undefined():
    ratio = Ratio(torch.zeros(2).double(), torch.tensor([0.0, 1.0]).double())
    assert ratio.estimate(torch.tensor([[1.0, 0.0]]).double()).isnan().all()


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), min_size=1, max_size=12),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
    st.sampled_from([0.0, 0.5, 0.95, 1.0]),
)
@quick
def test_a_weighted_quantile_is_the_quantile_of_the_repeated_values(pairs, weights, level):
    pairs.sort()
    values, questions = zip(*pairs, strict=True)
    repeated = [value for value, question in pairs for _ in range(weights[question])]
    if not repeated:
        return
    quantile = Quantile(torch.tensor(values).double(), torch.tensor(questions), level)
    estimate = quantile.estimate(torch.tensor([weights, weights]).double())
    assert estimate.tolist() == pytest.approx([np.quantile(repeated, level)] * 2, abs=1e-9)


def test_point_estimates_count_every_question_once():
    statistics: dict[str, Statistic] = {
        "mean": Ratio(torch.tensor([1.0, 5.0]).double(), torch.tensor([1.0, 1.0]).double()),
        "median": Quantile(torch.tensor([1.0, 5.0]).double(), torch.tensor([0, 1]), 0.5),
    }
    assert {name: value.item() for name, value in point_estimates(statistics, 2).items()} == {"mean": 3, "median": 3}
