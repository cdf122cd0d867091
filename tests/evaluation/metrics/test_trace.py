"""The arithmetic of RRP, MQI and gamma: the reference's numbers, bounds, and gamma against its definition."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from introspect.evaluation.metrics.trace import (
    arrival,
    arrival_against,
    goodman_kruskal_gamma,
    quality_index,
    redundancy,
    redundancy_against,
    regulation,
    wasted,
)
from tests.evaluation.metrics.factory import quick


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
        found = {"rho": rho, "delta_r": delta, "R": regulation(rho, delta)}
        found |= {"rho_la": rho_la, "delta_la": delta_la, "R_la": regulation(rho_la, delta_la)}
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
    assert regulation(rho, delta).tolist() == pytest.approx([2 / 3, 0, 0, 0])
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
        score = regulation(rho, delta).item()
        assert 0 <= rho <= 1
        assert 0 <= delta <= 1
        assert 0 <= score <= 1
        assert min(1 - rho, 1 - delta) - 1e-12 <= score <= max(1 - rho, 1 - delta) + 1e-12
        assert regulation(delta, rho).item() == pytest.approx(score)
        if redundant:
            leaner = redundancy(number(redundant - 1), number(total))
            assert regulation(rho, torch.minimum(leaner, delta)).item() >= score - 1e-12


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
