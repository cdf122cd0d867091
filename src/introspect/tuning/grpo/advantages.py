"""Group-relative policy optimisation (GRPO): its settings and its arithmetic, without a model.

A question is answered by a group of rollouts. What a rollout earned above the mean of its group is its advantage, and
every token of it is made more or less probable accordingly, as far as the clipped ratio to the policy that drew it
lets it, while a penalty holds the policy near a frozen reference.

Sources: DeepSeekMath (Shao et al. 2024, arXiv 2402.03300), where the method is from; DAPO (Yu et al. 2025, arXiv
2503.14476) for a loss that counts tokens, a higher upper bound of the ratio and the masking of truncated rollouts;
Dr. GRPO (Liu et al. 2025, arXiv 2503.20783) for advantages without division and a loss with a constant divisor.

Legend: q questions, g rollouts of a question, r rollouts, n tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from introspect.benchmarks.answers import exact_match, f1_score
from introspect.chat.protocol import Sampling
from introspect.core.errors import InputError
from introspect.evaluation.rollouts import Rollout

Normalization = Literal["sequence", "token", "constant"]
RewardName = Literal["f1", "exact_match"]
Reward = Callable[[Rollout], float]

# Added to the deviation of a group's rewards: rewards that differ by next to nothing are no reason for a large step.
_EPS = 1e-4

# From the whole distribution, which is the one whose gradient is taken.
WHOLE_DISTRIBUTION = Sampling(temperature=1.0, top_p=1.0, top_k=0)


@dataclass(frozen=True, slots=True)
class GRPO:
    """The settings of the method.

    Attributes:
        group_size: rollouts of each question.
        sampling: how they are drawn. The gradient is that of the policy at its temperature; `top_p` below 1 or a
            `top_k` would draw from another one.
        reward: what a rollout earns: `f1` or `exact_match` of its answer, best over the accepted ones, and 0 for one
            that did not end by itself; or a function of the `Rollout`.
        scale_rewards: whether advantages are divided by the deviation of the group's rewards; Dr. GRPO does not,
            because that weighs questions by how sure the student is of them.
        clip_low: how far below 1 the ratio to the policy that drew the rollouts has an effect.
        clip_high: and how far above 1; 0.2 and 0.2 are PPO's, 0.2 and 0.28 DAPO's.
        kl_weight: of the divergence from the student as it was before; DeepSeekMath's is 0.04, DAPO's and Dr. GRPO's 0,
            which needs no reference in memory.
        normalization: what the loss of an optimizer step is a mean over: `sequence` weighs rollouts alike
            (DeepSeekMath), `token` tokens alike (DAPO), `constant` divides each rollout by the most tokens that one may
            have (Dr. GRPO).
        mask_truncated: whether rollouts that a limit cut off are left out of the loss (DAPO's overlong filtering); they
            still count in the mean of their group. Without it they are learnt from, as failures.
    """

    group_size: int = 8
    sampling: Sampling = WHOLE_DISTRIBUTION
    reward: RewardName | Reward = "f1"
    scale_rewards: bool = True
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_weight: float = 0.04
    normalization: Normalization = "token"
    mask_truncated: bool = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: with every complaint.
        """
        if faults := _faults(self):
            raise InputError("grpo: " + "; ".join(faults))

    def score(self, rollout: Rollout) -> float:
        """What a rollout earns."""
        return self.reward(rollout) if callable(self.reward) else _REWARDS[self.reward](rollout)


def f1_reward(rollout: Rollout) -> float:
    """Token F1 of the answer, best over the accepted ones, in [0, 1]; 0 where the rollout did not end by itself."""
    return f1_score(rollout.predicted_answer, rollout.references) if rollout.finished else 0.0


def exact_match_reward(rollout: Rollout) -> float:
    """1.0 if the rollout ended by itself and its answer is an accepted one, else 0.0."""
    return exact_match(rollout.predicted_answer, rollout.references) if rollout.finished else 0.0


_REWARDS: dict[str, Reward] = {"f1": f1_reward, "exact_match": exact_match_reward}


def group_advantages(rewards: Tensor, *, scale: bool = True) -> Tensor:
    """What each rollout earned above the mean of its group, [q, g], in deviations of the group if `scale`.

    DeepSeekMath section 4.1.2 with `scale`, Dr. GRPO without. The deviation is the population's, plus 1e-4.
    A group whose rewards are all equal has exactly zero advantage.
    """
    advantages = rewards - rewards.mean(-1, keepdim=True)
    if scale:
        advantages = advantages / (rewards.std(-1, keepdim=True, correction=0) + _EPS)
    # Where rounding would leave something of equal rewards.
    return advantages.masked_fill(is_flat(rewards)[:, None], 0.0)


def is_flat(rewards: Tensor) -> Tensor:
    """Whether all rollouts of a question earned the same, [q, g] -> [q]: nothing can be learnt from such a group."""
    return (rewards == rewards[:, :1]).all(-1)


class Surrogate(NamedTuple):
    """`loss` [n], of each token, to be made small; `clipped` [n], whether its gradient is cut off."""

    loss: Tensor
    clipped: Tensor


def clipped_surrogate(
    log_probs: Tensor, sampled: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Surrogate:
    """PPO's clipped objective (Schulman et al. 2017, arXiv 1707.06347, equation 7) per token, as a loss.

    Args:
        log_probs: of the tokens under the policy that is trained, [n].
        sampled: of the tokens under the policy that drew them, [n], without gradient.
        advantages: of the rollout that each token belongs to, [n].
        clip_low: how far below 1 the ratio of the two probabilities has an effect.
        clip_high: and above.
    """
    ratio = (log_probs - sampled).exp()
    free = ratio * advantages
    limited = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    return Surrogate(-torch.minimum(free, limited), limited < free)


def kl_estimate(log_probs: Tensor, reference: Tensor) -> Tensor:
    """An estimate of KL(policy ‖ reference) at each token that the policy drew, [n]: never negative.

    `exp(d) - d - 1` with `d` the log-probability under the reference less that under the policy: unbiased, and of
    less variance than `-d` (Schulman 2020, "Approximating KL divergence", estimator k3; DeepSeekMath equation 4).
    """
    difference = reference - log_probs
    return torch.expm1(difference) - difference


def token_weights(
    lengths: Tensor, normalization: Normalization, *, rollouts: int, tokens: int, max_tokens: int | None
) -> Tensor:
    """The weight of each token of a rollout in the loss of an optimizer step, [r].

    The loss of the step is the weighted sum over all of its tokens, however they are split into micro-batches and
    processes: a mean of the means of micro-batches would weigh tokens by how much else is in their micro-batch.

    Args:
        lengths: tokens of each rollout that count, [r]; 0 for one that is left out, which has weight 0.
        normalization: see `GRPO`.
        rollouts: how many are not left out, in the whole step.
        tokens: how many they have together, in the whole step.
        max_tokens: the most that a rollout may have, for `constant`.
    """
    counts = lengths.double()
    if normalization == "token":
        weights = torch.full_like(counts, 1 / max(tokens, 1))
    elif normalization == "sequence":
        weights = 1 / (max(rollouts, 1) * counts.clamp(min=1))
    else:
        assert max_tokens is not None
        weights = torch.full_like(counts, 1 / (max(rollouts, 1) * max_tokens))
    return weights.masked_fill(lengths == 0, 0.0)


def _faults(settings: GRPO) -> list[str]:
    faults = []
    if settings.group_size < 2:
        faults.append(f"group_size is {settings.group_size}, expected 2 or more: rollouts are compared with each other")
    if not settings.sampling.temperature > 0:
        faults.append(f"sampling.temperature is {settings.sampling.temperature}, expected more than 0")
    if not 0 <= settings.clip_low <= 1:
        faults.append(f"clip_low is {settings.clip_low}, expected 0 to 1")
    faults += [
        f"{name} is {value}, expected 0 or more"
        for name, value in (("clip_high", settings.clip_high), ("kl_weight", settings.kl_weight))
        if not value >= 0
    ]
    if not callable(settings.reward) and settings.reward not in get_args(RewardName):
        faults.append(f"reward is {settings.reward!r}, expected {' or '.join(get_args(RewardName))}")
    if settings.normalization not in get_args(Normalization):
        known = ", ".join(get_args(Normalization))
        faults.append(f"normalization is {settings.normalization!r}, expected one of {known}")
    elif settings.normalization == "constant" and settings.sampling.max_tokens is None:
        faults.append("normalization is constant, which needs sampling.max_tokens")
    return faults
