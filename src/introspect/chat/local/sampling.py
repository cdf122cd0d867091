"""Draw tokens for many rows at once, each with its own sampling settings and its own random stream.

Legend: `n` rows of a batch, `v` tokens of the vocabulary.

The random number of a token depends only on the seed of its row and its position: a row draws the same tokens whatever
else is in the batch, on any device, and whenever it joined.
"""

from __future__ import annotations

import torch
from torch import Tensor

from introspect.chat.protocol import Sampling
from introspect.core.errors import InputError


def draw(logits: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, uniform: Tensor) -> Tensor:
    """Draw one token per row by inverse transform sampling.

    The order is that of transformers and vLLM: temperature, then top-k, then top-p (nucleus sampling, Holtzman et al.,
    The Curious Case of Neural Text Degeneration, 2020).

    Args:
        logits: `[n, v]`.
        temperature: `[n]`; 0 takes the most probable token.
        top_p: `[n]`, keeps the fewest most probable tokens whose probability reaches it.
        top_k: `[n]`, keeps so many most probable tokens; 0 keeps all.
        uniform: `[n]`, random numbers in [0, 1).

    Returns:
        `[n]` int64, token ids.
    """
    greedy = temperature == 0
    greedy_rows = int(greedy.sum())
    if greedy_rows == len(logits):
        return logits.argmax(-1)
    vocabulary = logits.shape[-1]
    ranks = torch.where(top_k == 0, vocabulary, top_k.clamp(max=vocabulary))
    # [n, k], most probable first, k the largest of the rows' top_k.
    values, tokens = logits.float().topk(int(ranks.max()))
    values = values / torch.where(greedy, 1.0, temperature)[:, None]
    columns = torch.arange(values.shape[1], device=values.device)
    probabilities = values.masked_fill(columns >= ranks[:, None], -torch.inf).softmax(-1)
    cumulative = probabilities.cumsum(-1)
    # A token stays if those before it do not reach top_p; the first one always does.
    kept = ((cumulative - probabilities < top_p[:, None]).sum(-1).clamp(min=1).minimum(ranks) - 1)[:, None]
    target = uniform[:, None] * cumulative.gather(1, kept)
    rank = (cumulative <= target).sum(-1, keepdim=True).minimum(kept)
    drawn = tokens.gather(1, rank)[:, 0]
    return torch.where(greedy, logits.argmax(-1), drawn) if greedy_rows else drawn


def check_sampling(sampling: Sampling) -> None:
    """Check sampling settings.

    Raises:
        InputError: one is out of range.
    """
    if not sampling.temperature >= 0:
        raise InputError(f"sampling.temperature: expected 0 or more, got {sampling.temperature}")
    if not 0 < sampling.top_p <= 1:
        raise InputError(f"sampling.top_p: expected more than 0 and at most 1, got {sampling.top_p}")
    if sampling.top_k < 0:
        raise InputError(f"sampling.top_k: expected 0 (all tokens) or more, got {sampling.top_k}")
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise InputError(f"sampling.max_tokens: expected at least 1 or null, got {sampling.max_tokens}")
