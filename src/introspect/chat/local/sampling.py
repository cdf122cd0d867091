"""Drawing tokens for many rows at once, each with its own sampling settings and its own randomness.

Legend: `n` rows of a batch, `v` tokens of the vocabulary.

The randomness of a row is a function of its seed and of the position of the token, nothing else: a row draws the same
numbers whatever else is in the batch, whichever device it runs on, and whenever it joined.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014), as signed numbers.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


def row_seed(seed: int, sample: int, prompt_ids: Sequence[int]) -> int:
    """The signed 64-bit seed of one response: of its request's seed, its sample number and its prompt's tokens."""
    text = f"{seed} {sample} {' '.join(map(str, prompt_ids))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """Number `positions` of the random stream `seeds`: `[n]`, `[n]` int64 -> `[n]` float32 in [0, 1).

    The streams are SplitMix64's, which can be entered anywhere: no state, no loop, no difference between devices.
    """
    return _shift_right(mix(seeds + (positions + 1) * _GAMMA), 40).float() * 2.0**-24


def mix(z: Tensor) -> Tensor:
    """64-bit integers whose every bit depends on all bits of `z`, one to one: SplitMix64's last step."""
    z = (z ^ _shift_right(z, 30)) * _MIX[0]
    z = (z ^ _shift_right(z, 27)) * _MIX[1]
    return z ^ _shift_right(z, 31)


def draw(logits: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, uniform: Tensor) -> Tensor:
    """One token per row by inverse transform sampling: `[n, v]`, four times `[n]` -> `[n]` int64.

    Temperature first, then the `top_k` likeliest tokens (0: all), then the fewest of those whose share reaches `top_p`:
    the order of transformers and vLLM. Temperature 0 takes the likeliest token.
    """
    greedy = temperature == 0
    likeliest = int(greedy.sum())
    if likeliest == len(logits):
        return logits.argmax(-1)
    vocabulary = logits.shape[-1]
    ranks = torch.where(top_k == 0, vocabulary, top_k.clamp(max=vocabulary))
    # [n, k], likeliest first, k the largest of the rows' top_k.
    values, tokens = logits.float().topk(int(ranks.max()))
    values = values / torch.where(greedy, 1.0, temperature)[:, None]
    columns = torch.arange(values.shape[1], device=values.device)
    shares = values.masked_fill(columns >= ranks[:, None], -torch.inf).softmax(-1)
    cumulative = shares.cumsum(-1)
    # A token stays if those before it do not reach top_p; the first one always does.
    kept = ((cumulative - shares < top_p[:, None]).sum(-1).clamp(min=1).minimum(ranks) - 1)[:, None]
    target = uniform[:, None] * cumulative.gather(1, kept)
    rank = (cumulative <= target).sum(-1, keepdim=True).minimum(kept)
    drawn = tokens.gather(1, rank)[:, 0]
    return torch.where(greedy, logits.argmax(-1), drawn) if likeliest else drawn


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """The unsigned shift that 64-bit integers lack here: `>>` would copy the sign downwards."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
