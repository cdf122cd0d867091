from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from introspect.evaluation.metrics.rollout_metrics import TokenUsage
from tests.evaluation.metrics.factory import quick, rollout, runs


def _usage(run):
    metric = TokenUsage()
    metric.update(run)
    return {name: value.item() for name, value in metric.compute().items()}


def test_token_usage():
    tokens = [(10, 4), (20, 16), (30, 30), (100, 70)]
    run = [
        rollout(f"q{index}", completion_tokens=completion, reasoning_tokens=reasoning)
        for index, (completion, reasoning) in enumerate(tokens)
    ]
    assert _usage(run) == pytest.approx(
        {
            "completion_tokens": 40.0,
            "completion_tokens_median": 25.0,
            "completion_tokens_p95": 89.5,  # 0.95 * 3 = 2.85: between 30 and 100
            "completion_tokens_total": 160.0,
            "reasoning_share": 0.75,  # of all tokens, not the mean of 0.4, 0.8, 1.0 and 0.7
            "answer_share": 0.25,
        },
        abs=1e-12,
    )


@given(runs())
@quick
def test_token_usage_agrees_with_numpy(run):
    usage, tokens = _usage(run), [rollout.completion_tokens for rollout in run]
    assert usage["completion_tokens"] == pytest.approx(np.mean(tokens))
    assert usage["completion_tokens_median"] == pytest.approx(np.median(tokens))
    assert usage["completion_tokens_p95"] == pytest.approx(np.quantile(tokens, 0.95))
    assert usage["reasoning_share"] + usage["answer_share"] == pytest.approx(1.0)
