from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from introspect.tuning.optimization import adamw, lr_factor


def test_vectors_do_not_decay_and_the_rate_is_set_at_once():
    network = nn.Linear(3, 2)
    settings = {"betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.1, "warmup_ratio": 0.5, "min_lr_ratio": 0.0}
    made = adamw([network.weight], [network.bias], 4, lr=1.0, schedule="linear", fused=True, **settings)
    matrices, vectors = made["optimizer"].param_groups
    assert [group["weight_decay"] for group in (matrices, vectors)] == [0.1, 0.0]
    assert [group["params"] for group in (matrices, vectors)] == [[network.weight], [network.bias]]
    assert (matrices["betas"], matrices["eps"], matrices["fused"], matrices["lr"]) == ((0.8, 0.9), 1e-6, True, 0.5)
    assert made["lr_scheduler"]["interval"] == "step"


def test_learning_rate_rises_and_falls():
    def curve(schedule, floor=0.0):
        return [lr_factor(step, 10, 0.2, schedule, floor) for step in range(11)]

    assert curve("linear") == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0])
    assert curve("linear", 0.5)[-1] == pytest.approx(0.5)
    assert curve("constant") == [0.5] + [1] * 10
    assert curve("cosine")[6] == pytest.approx(0.5)
    assert curve("cosine")[4] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


@given(
    total=st.integers(1, 500),
    warmup=st.floats(0, 1),
    floor=st.floats(0, 1),
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
)
def test_learning_rate_is_a_hill(total, warmup, floor, schedule):
    curve = [lr_factor(step, total, warmup, schedule, floor) for step in range(total)]
    top = max(math.ceil(warmup * total) - 1, 0)

    assert curve[top] == pytest.approx(1)
    assert curve[: top + 1] == sorted(curve[: top + 1])
    assert curve[top:] == sorted(curve[top:], reverse=True)
    assert curve[-1] >= floor - 1e-9
    assert curve[0] > 0
