"""The arithmetic of what judges see in traces: where a trace arrives, how much it repeats, what it costs.

Pure functions of float64 tensors of one shape; docs/judges.md gives every formula with its source.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The number of the sentence that derives the answer, where none does.
NEVER = -1


def arrival(first_correct: Tensor, total: Tensor) -> Tensor:
    """rho, the share of its sentences that a trace goes through until it has derived the answer; 1 where it never does.

    In [0, 1] for first_correct in {-1} or [1, total].
    """
    return torch.where(first_correct < 0, 1.0, first_correct / total)


def redundancy(redundant: Tensor, total: Tensor) -> Tensor:
    """delta, the share of the sentences that are redundant; 0 for a trace without sentences. In [0, 1]."""
    return torch.where(total > 0, redundant / total, 0.0)


def regulation(rho: Tensor, delta: Tensor) -> Tensor:
    """R, the harmonic mean of 1 - rho and 1 - delta, and 0 where both are 0. In [0, 1]; higher is better."""
    early, lean = 1 - rho, 1 - delta
    return torch.where(early + lean > 0, 2 * early * lean / (early + lean), 0.0)


def arrival_against(first_correct: Tensor, base_sentences: float) -> Tensor:
    """The length-aware rho: min(1, first_correct / T), T the mean sentences of a base trace; 1 where never derived."""
    return torch.where(first_correct < 0, 1.0, (first_correct / base_sentences).clamp(max=1))


def redundancy_against(redundant: Tensor, base_sentences: float) -> Tensor:
    """The length-aware delta: min(1, redundant / T), T the mean sentences of a base trace."""
    return (redundant / base_sentences).clamp(max=1)


def quality_index(level: Tensor, tokens: Tensor, base_tokens: float) -> Tensor:
    """MQI: the level (0 to 5) times base tokens over tokens; nan where there are no tokens. Not bounded by 5."""
    return torch.where(tokens > 0, level * base_tokens / tokens, torch.nan)


def wasted(effective: Tensor, whole: Tensor) -> Tensor:
    """xi, the share of a trace that comes after its effective part; nan for an empty trace. In [0, 1]."""
    return torch.where(whole > 0, 1 - effective / whole, torch.nan)


def goodman_kruskal_gamma(x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    """Rank association (Goodman & Kruskal 1954): (C - D) / (C + D) of C concordant and D discordant pairs.

    Pairs tied in x or y count as neither; nan without a pair of either kind. In [-1, 1].

    Pairs are counted bit by bit of the ranks of y, the highest first: two ranks that agree in all higher bits are
    ordered by this one. A pass over sorted data per bit: O(n log n) time, O(b n) memory.

    Args:
        x, y: [n] of any ordered kind, without nan.
        weights: [b, n], how often each point counts, for b weightings; None is once.

    Returns:
        float64 [b]; a scalar without weights.
    """
    if weights is None:
        return goodman_kruskal_gamma(x, y, torch.ones(1, len(x), dtype=torch.float64, device=x.device))[0]
    concordant = discordant = torch.zeros(len(weights), dtype=torch.float64, device=x.device)
    order = x.argsort(stable=True)  # positions, by (higher bits of the rank of y, x) in each pass
    place = x.unique(return_inverse=True)[1]
    rank = y.unique(return_inverse=True)[1]
    for bit in reversed(range(int(rank.max()).bit_length() if len(rank) else 0)):
        group, high = rank[order] >> (bit + 1), ((rank[order] >> bit) & 1).bool()
        weight = weights[:, order].double()
        start = _starts(group)  # of the group of each position
        run = _starts(torch.stack([group, place[order]]))  # of the points with the same group and x
        lower, upper = _before(weight * ~high), _before(weight * high)  # [b, n + 1]
        concordant = concordant + (weight * high * (lower[:, run] - lower[:, start])).sum(dim=1)
        discordant = discordant + (weight * ~high * (upper[:, run] - upper[:, start])).sum(dim=1)
        order = order[_partition(group, high)]
    return (concordant - discordant) / (concordant + discordant)


def _starts(keys: Tensor) -> Tensor:
    """For each of n sorted keys [n] or [k, n], the position of the first equal one."""
    keys = keys.reshape(-1, keys.shape[-1])
    positions = torch.arange(keys.shape[1], device=keys.device)
    is_new = torch.ones(keys.shape[1], dtype=torch.bool, device=keys.device)
    is_new[1:] = (keys[:, 1:] != keys[:, :-1]).any(dim=0)
    return torch.where(is_new, positions, 0).cummax(dim=0).values


def _before(values: Tensor) -> Tensor:
    """Sums of all values before each position: [b, n] -> [b, n + 1]."""
    return torch.nn.functional.pad(values.cumsum(dim=1), (1, 0))


def _partition(group: Tensor, high: Tensor) -> Tensor:
    """The positions with, in each group [n], the low ones before the high ones, otherwise in the same order."""
    positions = torch.arange(len(group), device=group.device)
    start = _starts(group)
    lows = _before((~high)[None].long())[0]  # [n + 1]
    last = _starts(group.flip(0)).flip(0)
    end = len(group) - last  # exclusive
    lows_before, lows_in_group = lows[:-1] - lows[start], lows[end] - lows[start]
    target = torch.where(high, start + lows_in_group + (positions - start - lows_before), start + lows_before)
    result = torch.empty_like(positions)
    result[target] = positions
    return result
