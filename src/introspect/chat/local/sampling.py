"""Drawing tokens for many rows at once, each with its own sampling settings and its own randomness.

Legend: `n` rows of a batch, `v` tokens of the vocabulary.

The randomness of a row is a function of its seed and of the position of the token, nothing else: a row draws the same
numbers whatever else is in the batch, whichever device it runs on, and whenever it joined.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
