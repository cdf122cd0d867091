from __future__ import annotations

import pytest
from hypothesis import given

from introspect.evaluation.metrics.degeneration import DegenerationCount, DegenerationRate, UnparsedCount, UnparsedRate
from introspect.evaluation.outcomes import is_degenerate, is_unparsed
from tests.evaluation.metrics.factory import quick, rollout, runs

RUN = [
    rollout("a", predicted="Paris"),
    rollout("b", predicted="Paris", finish_reason="length"),  # answered, then ran on: still a degeneration
    rollout("c", finish_reason="length"),
    rollout("d", finish_reason="content_filter"),
    rollout("e", content="It is Paris."),  # no tags
    rollout("f", predicted="  "),
    rollout("g", predicted="Rome", finish_reason="tool_calls"),
    rollout("h", predicted="Rome", completion_tokens=10**6),  # long, but it ended
]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [(DegenerationRate, 3 / 8), (DegenerationCount, 3), (UnparsedRate, 2 / 8), (UnparsedCount, 2)],
)
def test_the_finish_reason_decides(metric, expected):
    instance = metric()
    instance.update(RUN)
    assert instance.compute().item() == expected


@given(runs())
@quick
def test_no_rollout_is_both_degenerate_and_unparsed(run):
    assert not any(is_degenerate(rollout) and is_unparsed(rollout) for rollout in run)
    assert all(is_degenerate(rollout) or is_unparsed(rollout) or rollout.predicted_answer for rollout in run)
