"""States of all metrics: what batches, ranks and resets do to them."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import MetricCollection

from introspect.core.errors import InputError
from introspect.evaluation.metrics.rollout_metrics import RolloutMetrics, TokenUsage
from tests.evaluation.metrics.factory import quick, rollout, runs

METRICS = (RolloutMetrics, TokenUsage)  # those of judged rollouts: judging/test_metrics.py
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``compute`` method"),
    pytest.mark.filterwarnings("ignore:questions have between"),
]


def _computed(metric):
    result = metric.compute()
    values = result if isinstance(result, dict) else {"": result}
    assert all(value.dtype == torch.float64 and value.shape == () for value in values.values())
    return {name: value.item() for name, value in values.items()}


def _fed(cls, *batches):
    metric = cls()
    for batch in batches:
        metric.update(batch)
    return metric


def _gather_with(other, metric):
    """Compute `metric` as one of two ranks whose other one holds `other`."""
    states = iter([getattr(other, name) for name in other._reductions])
    metric.distributed_available_fn = lambda: True
    metric.dist_sync_fn = lambda state, group: [state, _joined(next(states))]
    return _computed(metric)


def _joined(state):
    return torch.cat(state) if isinstance(state, list) else state


@pytest.mark.parametrize("cls", METRICS)
@given(run=runs(), data=st.data())
@settings(quick, max_examples=8)
def test_batches_and_ranks_add_up_to_the_whole(cls, run, data):
    cut = data.draw(st.integers(0, len(run)))
    whole = pytest.approx(_computed(_fed(cls, run)), abs=1e-12, nan_ok=True)
    assert _computed(_fed(cls, run[:cut], run[cut:])) == whole
    assert _gather_with(_fed(cls, run[cut:]), _fed(cls, run[:cut])) == whole
    assert _gather_with(cls(), _fed(cls, run)) == whole  # a rank that saw nothing
    merged = _fed(cls, run[:cut])
    merged.merge_state(_fed(cls, run[cut:]))
    assert _computed(merged) == whole


@pytest.mark.parametrize("cls", METRICS)
def test_a_metric_starts_empty_after_a_reset_and_refuses_to_score_nothing(cls):
    metric = _fed(cls, [rollout(predicted="Paris")])
    metric.reset()
    for _ in range(2):
        with pytest.raises(InputError, match="no rollouts were given"):
            metric.compute()
        metric.update([])
    metric.update([rollout(predicted="Rome")])
    assert _computed(metric) == pytest.approx(_computed(_fed(cls, [rollout(predicted="Rome")])), nan_ok=True)


@pytest.mark.parametrize("cls", METRICS)
def test_a_metric_can_be_called_on_a_batch_and_travels_between_processes(cls):
    metric = cls()
    metric([rollout("a", predicted="Paris")])
    metric = pickle.loads(pickle.dumps(metric))
    metric([rollout("b", predicted="Rome")])
    whole = _fed(cls, [rollout("a", predicted="Paris"), rollout("b", predicted="Rome")])
    assert _computed(metric) == pytest.approx(_computed(whole), nan_ok=True)


def test_a_rollout_given_twice_is_an_error():
    metric = _fed(TokenUsage, [rollout("a"), rollout("b")], [rollout("a", completion_tokens=99)])
    with pytest.raises(InputError, match="1 of 3 rollouts have the example id and rollout id of another"):
        metric.compute()


def test_a_record_is_small():
    metric = _fed(RolloutMetrics, [rollout(str(index), reasoning="x" * 10_000) for index in range(10)])
    assert sum(state.nbytes for state in (*metric.keys, *metric.values)) <= 10 * 128


def test_a_collection_gives_one_flat_dict():
    collection = MetricCollection({"all": RolloutMetrics()}, compute_groups=False, prefix="run/")
    collection.update([rollout("a", predicted="Paris")])
    collection.update([rollout("b", predicted="Paris, France")])
    values = collection.compute()
    assert values["run/accuracy"].item() == 0.5
    assert values["run/f1"].item() == pytest.approx(5 / 6)
    assert values["run/completion_tokens"].item() == 10
