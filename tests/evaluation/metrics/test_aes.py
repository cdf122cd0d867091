from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.core.errors import InputError
from introspect.evaluation.metrics.aes import AccuracyEfficiencyScore, accuracy_efficiency_score
from tests.evaluation.metrics.factory import quick, rollout


def test_the_published_score_of_marco_o1_on_math():
    """O1-Pruner, table 1: 73.8 % in 1156 tokens pruned to 77.5 % in 657."""
    assert accuracy_efficiency_score(77.5, 657, 73.8, 1156) == pytest.approx(0.58, abs=0.005)


def test_a_loss_of_accuracy_weighs_more_than_a_gain():
    assert accuracy_efficiency_score(0.5, 50, 0.4, 100) == pytest.approx(0.5 + 3 * 0.25)
    assert accuracy_efficiency_score(0.3, 50, 0.4, 100) == pytest.approx(0.5 - 5 * 0.25)
    assert accuracy_efficiency_score(0.3, 150, 0.4, 100, alpha=2, beta=7, gamma=10) == pytest.approx(-1.0 - 2.5)
    assert accuracy_efficiency_score(0.5, 150, 0.4, 100, alpha=2, beta=7, gamma=10) == pytest.approx(-1.0 + 1.75)


@pytest.mark.parametrize("base", [(0.0, 100), (0.5, 0)])
def test_nothing_is_relative_to_nothing(base):
    assert math.isnan(accuracy_efficiency_score(0.5, 50, *base))


POSITIVE = st.floats(0.01, 1.0)
TOKENS = st.floats(1, 10_000)


@given(POSITIVE, TOKENS)
@quick
def test_the_baseline_scores_nothing_against_itself(accuracy, tokens):
    assert accuracy_efficiency_score(accuracy, tokens, accuracy, tokens) == 0


@given(POSITIVE, TOKENS, POSITIVE, TOKENS)
@quick
def test_the_signs_follow_the_parts(accuracy, tokens, base_accuracy, base_tokens):
    saved = accuracy_efficiency_score(base_accuracy, tokens, base_accuracy, base_tokens)
    assert math.copysign(1, saved) == math.copysign(1, base_tokens - tokens) or saved == 0
    gained = accuracy_efficiency_score(accuracy, base_tokens, base_accuracy, base_tokens)
    assert math.copysign(1, gained) == math.copysign(1, accuracy - base_accuracy) or gained == 0
    together = accuracy_efficiency_score(accuracy, tokens, base_accuracy, base_tokens)
    assert together == pytest.approx(saved + gained, abs=1e-9)


@given(POSITIVE, TOKENS, POSITIVE, TOKENS)
@quick
def test_the_unit_of_accuracy_does_not_matter(accuracy, tokens, base_accuracy, base_tokens):
    fraction = accuracy_efficiency_score(accuracy, tokens, base_accuracy, base_tokens)
    percent = accuracy_efficiency_score(100 * accuracy, tokens, 100 * base_accuracy, base_tokens)
    assert fraction == pytest.approx(percent, abs=1e-9)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_the_metric_scores_rollouts_against_its_baseline():
    metric = AccuracyEfficiencyScore(base_accuracy=0.25, base_tokens=40)
    with pytest.raises(InputError, match="no rollouts were given"):
        metric.compute()
    metric.update([rollout("a", predicted="Paris", completion_tokens=10)])
    metric.update([rollout("b", predicted="Rome", completion_tokens=30)])
    assert metric.compute().item() == pytest.approx(0.5 + 3 * 1.0)
