from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.evaluation.metrics.statistics import Quantile, Ratio, Statistic, goodman_kruskal_gamma, point_estimates
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


def by_definition(x: list[float], y: list[float], weights: list[float]) -> float:
    concordant = discordant = 0.0
    for (a, b, w), (c, d, v) in combinations(zip(x, y, weights, strict=True), 2):
        sign = (a - c) * (b - d)
        concordant += w * v * (sign > 0)
        discordant += w * v * (sign < 0)
    return (concordant - discordant) / (concordant + discordant) if concordant + discordant else math.nan


@quick
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9), st.integers(0, 3)), max_size=30))
def test_gamma_is_what_its_definition_says(points: list[tuple[int, int, int]]) -> None:
    x, y, weights = ([float(point[i]) for point in points] for i in range(3))
    columns = [torch.tensor(values, dtype=torch.float64) for values in (x, y)]
    found = goodman_kruskal_gamma(*columns).item()
    assert found == pytest.approx(by_definition(x, y, [1.0] * len(x)), nan_ok=True)
    both = goodman_kruskal_gamma(*columns, torch.tensor([weights, [2.0] * len(x)], dtype=torch.float64).reshape(2, -1))
    assert both[0].item() == pytest.approx(by_definition(x, y, weights), nan_ok=True)
    assert both[1].item() == pytest.approx(found, nan_ok=True)


@quick
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.randoms())
def test_gamma_knows_only_order(points: list[tuple[float, bool]], random: object) -> None:
    x, y = torch.tensor([p[0] for p in points], dtype=torch.float64), torch.tensor([p[1] for p in points])
    gamma = goodman_kruskal_gamma(x, y).item()
    assert math.isnan(gamma) or -1 <= gamma <= 1
    flipped = goodman_kruskal_gamma(x, ~y).item()
    assert flipped == pytest.approx(-gamma, nan_ok=True)
    random.shuffle(points)  # type: ignore[attr-defined]
    again = goodman_kruskal_gamma(
        torch.tensor([p[0] for p in points], dtype=torch.float64), torch.tensor([p[1] for p in points])
    )
    assert again.item() == pytest.approx(gamma, nan_ok=True)


def test_gamma_of_many_points_in_an_instant() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.rand(2, 50_000, generator=generator, dtype=torch.float64)
    assert goodman_kruskal_gamma(x, x).item() == 1
    # The noise outweighs half of the differences, and then points the other way half of the time: 3/4 - 1/4.
    assert goodman_kruskal_gamma(x, x + noise).item() == pytest.approx(0.5, abs=0.01)
