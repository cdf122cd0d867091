from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from introspect.chat.protocol import Sampling
from introspect.core.errors import InputError
from introspect.evaluation.rollouts import Rollout
from introspect.tuning.grpo.advantages import (
    GRPO,
    clipped_surrogate,
    exact_match_reward,
    f1_reward,
    group_advantages,
    is_flat,
    kl_estimate,
    token_weights,
)

CLIP = {"clip_low": 0.2, "clip_high": 0.28}


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rollout(content: str, finish_reason: str = "stop", aliases: tuple[str, ...] = ("JFK",)) -> Rollout:
    return Rollout(
        example_id="0",
        rollout_id=0,
        benchmark="made",
        question="Who?",
        answer="John F. Kennedy",
        aliases=aliases,
        hops=2,
        tier="unknown",
        reasoning="",
        content=content,
        finish_reason=finish_reason,
        prompt_tokens=1,
        reasoning_tokens=0,
        completion_tokens=1,
    )


@pytest.mark.parametrize(
    ("content", "reason", "f1", "exact"),
    [
        ("<answer>John F. Kennedy</answer>", "stop", 1.0, 1.0),
        ("<answer>jfk</answer>", "stop", 1.0, 1.0),
        ("<answer>John Smith</answer>", "stop", 0.4, 0.0),  # 1 of 2 words, 1 of 3
        ("<answer>nobody</answer>", "stop", 0.0, 0.0),
        ("John F. Kennedy", "stop", 0.0, 0.0),  # no tags
        ("<answer>John F. Kennedy</answer>", "length", 0.0, 0.0),
        ("", "context_length", 0.0, 0.0),
    ],
)
def test_rewards(content: str, reason: str, f1: float, exact: float) -> None:
    assert f1_reward(rollout(content, reason)) == pytest.approx(f1)
    assert exact_match_reward(rollout(content, reason)) == exact
    assert GRPO().score(rollout(content, reason)) == pytest.approx(f1)
    assert GRPO(reward="exact_match").score(rollout(content, reason)) == exact
    assert GRPO(reward=lambda item: float(len(item.content))).score(rollout(content, reason)) == len(content)


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    plain = group_advantages(rewards, scale=False)
    assert plain.tolist() == [[0.5, -0.5, -0.5, 0.5], [0.0] * 4, [0.75, -0.25, -0.25, -0.25]]
    scaled = group_advantages(rewards)
    assert scaled[0].tolist() == pytest.approx([1.0, -1.0, -1.0, 1.0], rel=1e-3)
    # The deviation of (1, 0, 0, 0) is √3/4.
    assert scaled[2].tolist() == pytest.approx([3**0.5, *[-(3**-0.5)] * 3], rel=1e-3)
    assert is_flat(rewards).tolist() == [False, True, False]


groups = st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=1, max_size=4)


@given(groups, st.booleans())
def test_advantages_sum_to_zero_keep_the_order_and_know_no_offset(rows: list[list[float]], scale: bool) -> None:
    rewards = torch.tensor(rows, dtype=torch.float64)
    advantages = group_advantages(rewards, scale=scale)
    assert advantages.sum(-1).abs().max() < 1e-9
    for reward, advantage in zip(rewards, advantages, strict=True):
        order = reward.argsort()
        assert (advantage[order].diff() >= -1e-12).all()
    shifted = group_advantages(rewards + 3, scale=scale)
    assert torch.allclose(shifted, advantages, atol=1e-9)
    assert bool((advantages.pow(2).mean(-1) <= 1 + 1e-9).all())


@given(st.floats(-1e6, 1e6), st.integers(2, 9), st.booleans())
def test_equal_rewards_teach_nothing(reward: float, size: int, scale: bool) -> None:
    for dtype in (torch.float32, torch.float64):
        assert group_advantages(torch.full((1, size), reward, dtype=dtype), scale=scale).tolist() == [[0.0] * size]


def test_surrogate_by_hand() -> None:
    ratio, advantages = double(1.0, 1.5, 1.5, 0.5, 0.5, 1.25), double(2.0, 1.0, -1.0, 1.0, -1.0, 1.0)
    loss, clipped = clipped_surrogate(ratio.log(), torch.zeros(6).double(), advantages, **CLIP)
    # Too far up: the gain ends at 1.28, the harm goes on. Too far down: the harm avoided ends at 0.8.
    assert loss.tolist() == pytest.approx([-2.0, -1.28, 1.5, -0.5, 0.8, -1.25])
    assert clipped.tolist() == [False, True, False, False, True, False]


floats = st.floats(-4, 4)


@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=6))
def test_at_ratio_one_the_gradient_is_that_of_reinforce(pairs: list[tuple[float, float]]) -> None:
    log_probs = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64, requires_grad=True)
    advantages = double(*(pair[1] for pair in pairs))
    surrogate = clipped_surrogate(log_probs, log_probs.detach(), advantages, **CLIP)
    [gradient] = torch.autograd.grad(surrogate.loss.sum(), log_probs)
    [reinforce] = torch.autograd.grad(-(log_probs * advantages).sum(), log_probs)
    assert torch.allclose(gradient, reinforce)
    assert not surrogate.clipped.any()


@given(st.floats(-2, 2), floats)
def test_clipped_tokens_have_no_gradient_and_others_have_one(difference: float, advantage: float) -> None:
    log_probs = double(difference).requires_grad_()
    surrogate = clipped_surrogate(log_probs, double(0.0), double(advantage), **CLIP)
    [gradient] = torch.autograd.grad(surrogate.loss.sum(), log_probs)
    if surrogate.clipped.item():
        assert gradient.item() == 0
    else:
        assert gradient.item() == pytest.approx(-advantage * float(double(difference).exp()))
    # A pessimistic bound of what the ratio alone promises.
    assert surrogate.loss.item() >= -advantage * float(double(difference).exp()) - 1e-9


@given(st.floats(-20, 20), st.floats(-20, 20))
def test_kl_estimate_is_never_negative_and_zero_only_where_equal(policy: float, reference: float) -> None:
    estimate = kl_estimate(double(policy), double(reference)).item()
    assert estimate >= 0
    assert kl_estimate(double(policy), double(policy)).item() == 0
    if abs(policy - reference) > 1e-3:
        assert estimate > 0


def test_kl_estimate_is_unbiased() -> None:
    policy, reference = double(0.5, 0.3, 0.2).log(), double(0.2, 0.2, 0.6).log()
    estimate = (policy.exp() * kl_estimate(policy, reference)).sum()
    assert torch.isclose(estimate, (policy.exp() * (policy - reference)).sum())


def test_gradients() -> None:
    log_probs = double(-1.0, -0.2, -3.0).requires_grad_()
    sampled, reference, advantages = double(-1.1, -0.7, -2.9), double(-0.9, -0.3, -1.0), double(1.0, -2.0, 0.5)
    assert torch.autograd.gradcheck(lambda x: clipped_surrogate(x, sampled, advantages, **CLIP).loss, log_probs)
    assert torch.autograd.gradcheck(lambda x: kl_estimate(x, reference), log_probs)


def test_token_weights_by_hand() -> None:
    lengths = torch.tensor([2, 0, 6])
    step = {"rollouts": 2, "tokens": 8, "max_tokens": 10}
    assert token_weights(lengths, "token", **step).tolist() == [1 / 8, 0, 1 / 8]
    assert token_weights(lengths, "sequence", **step).tolist() == [1 / 4, 0, 1 / 12]
    assert token_weights(lengths, "constant", **step).tolist() == [1 / 20, 0, 1 / 20]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.sampled_from(["token", "sequence", "constant"]))
def test_weights_of_a_step_do_not_depend_on_how_it_is_split(lengths: list[int], normalization: str) -> None:
    counts = torch.tensor(lengths)
    step = {"rollouts": int((counts > 0).sum()), "tokens": int(counts.sum()), "max_tokens": 50}
    whole = token_weights(counts, normalization, **step)
    parts = torch.cat([token_weights(part, normalization, **step) for part in counts.split(3)])
    assert torch.equal(whole, parts)
    total = float((whole * counts).sum())
    if not counts.any():
        assert total == 0
    elif normalization == "constant":
        assert 0 < total <= 1
    else:
        assert total == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"group_size": 1, "clip_low": 2.0},
            r"^grpo: group_size is 1, expected 2 or more.*; clip_low is 2\.0, expected",
        ),
        ({"sampling": Sampling(temperature=0.0)}, r"sampling\.temperature is 0\.0, expected more than 0"),
        ({"clip_high": -0.1}, r"clip_high is -0\.1, expected 0 or more"),
        ({"kl_weight": float("nan")}, "kl_weight is nan, expected 0 or more"),
        ({"reward": "f2"}, "reward is 'f2', expected f1 or exact_match"),
        ({"normalization": "mean"}, "normalization is 'mean', expected one of sequence, token, constant"),
        ({"normalization": "constant"}, r"normalization is constant, which needs sampling\.max_tokens"),
    ],
)
def test_bad_settings_give_one_line(settings: dict, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        GRPO(**settings)


def test_a_constant_divisor_needs_a_bound() -> None:
    bounded = replace(GRPO().sampling, max_tokens=9)
    assert GRPO(normalization="constant", sampling=bounded).sampling.max_tokens == 9
