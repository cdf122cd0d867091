"""Several rollouts per question: the average one, the majority, and whether any of k is right.

Shapes: q questions, n rollouts of each in the order of their ids.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from introspect.evaluation.metrics.records import Records
from introspect.evaluation.metrics.statistics import Ratio, Statistic


def average_at_k(scores: Tensor, k: int) -> Tensor:
    """Mean score of the first k rollouts: [q, n] -> [q], n >= k."""
    return scores[:, :k].mean(dim=1)


def majority_at_k(scores: Tensor, votes: Tensor, k: int) -> Tensor:
    """Score of the answer that most of the first k rollouts give: [q, n], [q, n] -> [q], n >= k.

    Equal votes are equal answers; among equally frequent answers the one given first wins. The score is that of the
    first rollout that gave the answer. An empty answer votes like any other.
    """
    ballots = votes[:, :k]
    support = (ballots[:, :, None] == ballots[:, None, :]).sum(dim=2)  # [q, k]
    winner = support.argmax(dim=1, keepdim=True)  # the first of several maxima
    return scores.gather(1, winner).squeeze(1)


def pass_at_k(correct: Tensor, total: Tensor, k: int) -> Tensor:
    """Unbiased probability that one of k rollouts, drawn without replacement, is right (Chen et al. 2021, eq. 1).

    `correct` [q] of `total` [q] rollouts are right. 1 - C(total - correct, k) / C(total, k), where the quotient is the
    product of 1 - correct / (total - j) over j < k, summed as logarithms: exact for any number of rollouts.

    Raises:
        ValueError: a question has fewer than k rollouts, for which the estimate does not exist.
    """
    if bool((total < k).any()):
        raise ValueError(f"pass@{k} needs {k} rollouts of every question; one has {int(total.min())}")
    remaining = total[:, None].double() - torch.arange(k)  # [q, k]
    # Where fewer than k rollouts are wrong, a factor reaches 0: its logarithm is -inf, and the probability 1.
    miss = torch.log1p(-(correct[:, None].double() / remaining).clamp(max=1)).sum(dim=1)
    return -torch.expm1(miss)


def sampling_statistics(records: Records, score: str) -> dict[str, Statistic]:
    """avg@k, maj@k and pass@k for k = 1, 2, 4, ... up to the rollouts that every question has; each question counts 1.

    avg and maj read the first k rollouts of a question, pass all of them; pass counts scores of exactly 1. A k that
    only some questions reach is left out, with a warning, so that every k speaks of the same questions.
    """
    total = torch.bincount(records.question)  # [q]
    fewest, most = int(total.min()), int(total.max())
    if fewest < most:
        warnings.warn(
            f"questions have between {fewest} and {most} rollouts: avg@k, maj@k and pass@k stop at k = {fewest}",
            stacklevel=2,
        )
    first = (total.cumsum(0) - total)[:, None] + torch.arange(fewest)  # [q, fewest]
    scores, votes = records.scores[score][first], records.vote[first]
    correct = records.per_question((records.scores[score] == 1).double())
    once = torch.ones(len(total), dtype=torch.float64)
    statistics: dict[str, Statistic] = {}
    for k in (2**power for power in range(fewest.bit_length())):
        statistics[f"avg@{k}"] = Ratio(average_at_k(scores, k), once)
        statistics[f"maj@{k}"] = Ratio(majority_at_k(scores, votes, k), once)
        statistics[f"pass@{k}"] = Ratio(pass_at_k(correct, total, k), once)
    return statistics
