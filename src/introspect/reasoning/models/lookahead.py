"""Guessing the next tokens of a text by looking up how it went on before.

A model that quotes its documents, or goes round in a loop, repeats what stands in its context. A guess that the model
would have drawn anyway costs no step of its own; a wrong one costs nothing but its share of the forward pass, and never
changes what is drawn (Leviathan et al., Fast Inference from Transformers via Speculative Decoding, ICML 2023; with the
context as the draft: Saxena, Prompt Lookup Decoding, 2023).

Legend: `n` rows of a batch, `w` tokens of the longest row, `k` tokens guessed per row.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The longest run of tokens by which a place in the past is recognised; longer matches win over shorter ones.
_CONTEXT = 3


def look_up(history: Tensor, length: Tensor, count: int) -> Tensor:
    """Guess `count` tokens per row: what followed the latest of the best matches with the row's end.

    Where the match is nearer to the end than `count` tokens, the guess goes round in that period.

    Args:
        history: tokens so far, `[n, w]` int64; what stands behind a row's length is not looked at.
        length: tokens of each row, `[n]`, at least 1.
        count: k.

    Returns:
        `[n, k]` int64, -1 for rows whose last token never came before.
    """
    columns = torch.arange(history.shape[1], device=history.device)
    last = length[:, None] - 1
    # matched[i, c]: how many tokens up to column c, which is not the last one, are those up to the row's end.
    alike = (history == history.gather(1, last)) & (columns < last)
    matched = alike.long()
    for back in range(1, min(_CONTEXT, history.shape[1])):
        token = history.gather(1, (last - back).clamp(min=0))
        # The tokens `back` columns earlier; before the beginning there is none.
        earlier = torch.nn.functional.pad(history[:, :-back] == token, (back, 0))
        alike = alike & earlier
        matched += alike
    found = (matched * history.shape[1] + columns).argmax(1, keepdim=True)
    steps = torch.arange(count, device=history.device) % (last - found).clamp(min=1)
    guesses = history.gather(1, (found + 1 + steps).clamp(max=history.shape[1] - 1))
    return torch.where(matched.gather(1, found) > 0, guesses, -1)
