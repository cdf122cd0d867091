"""Guessing the next tokens of texts from how like places went on before.

A model that quotes its documents, goes round in a loop, or says in one answer what it has said in others, repeats
itself. A guess that the model would have drawn anyway costs no step of its own; a wrong one costs nothing but its share
of the forward pass, and never changes what is drawn (Leviathan et al., Fast Inference from Transformers via Speculative
Decoding, ICML 2023; with the text itself as the draft: Saxena, Prompt Lookup Decoding, 2023; with other texts: He et
al., REST: Retrieval-Based Speculative Decoding, NAACL 2024).

Legend: `n` rows of a batch, `w` tokens of a window, `k` tokens guessed per row, `l` levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from introspect.chat.local.sampling import mix

# By how many tokens a place is recognised, and whether only in answers to the same prompt; the first level that knows
# the place guesses. Answers to other prompts know the phrases, but not the names that stand in them.
_LEVELS = ((5, True), (8, False), (3, True), (4, False), (2, False))
_SLOTS = 1 << 20  # 16 bytes each
_NOTHING = -1  # in an empty slot; no token is that large

WINDOW = max(tokens for tokens, _ in _LEVELS)


class Phrases:
    """What followed the last few tokens when they last came: a table of fixed size, in which the new displaces the old.

    Texts belong to a prompt, named by a number. What is guessed depends only on what was learnt, in which order: the
    same run again guesses the same.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        # A tensor of inference mode, which Lightning tests in, could not be written to outside of it.
        with torch.inference_mode(False):
            # An entry is the upper half of its key and a token; the lower bits of the key are its place.
            self._table = torch.full((_SLOTS,), _NOTHING, device=device)
            self._newest = torch.zeros(_SLOTS, dtype=torch.long, device=device)
        places, levels = torch.arange(WINDOW, device=device)[:, None], torch.arange(len(_LEVELS), device=device)
        reach, own = (torch.tensor(column, device=device) for column in zip(*_LEVELS, strict=True))
        self._weights = (mix(places * len(_LEVELS) + levels + 1) | 1) * (places >= WINDOW - reach)  # [w, l]
        self._salts = mix(-1 - levels)  # [l]
        self._own = own.long()  # [l]

    def read(self, ids: Tensor, prompt: int) -> None:
        """Learn the `[n]` tokens of a prompt, which say nothing about answers to other prompts."""
        windows = torch.nn.functional.pad(ids, (WINDOW, 0), value=-1).unfold(0, WINDOW, 1)[1:-1]
        self._write(self._keys(windows, torch.full_like(ids[1:], prompt))[:, self._own.bool()], ids[1:])

    def learn(self, windows: Tensor, follows: Tensor, prompts: Tensor) -> None:
        """Learn that `[n]` tokens follow `[n, w]` windows of answers to `[n]` prompts."""
        self._write(self._keys(windows, prompts), follows)

    def _write(self, keys: Tensor, follows: Tensor) -> None:
        """`[n, l]`, `[n]`."""
        entries = ((keys & ~0xFFFFFFFF) | follows[:, None]).flatten()
        places = (keys & (_SLOTS - 1)).flatten()
        # Writes to one place race: only the last one is made.
        order = torch.arange(len(places), device=places.device)
        self._newest.scatter_reduce_(0, places, order, "amax", include_self=False)
        last = self._newest[places] == order
        self._table[places[last]] = entries[last]

    def guess(self, windows: Tensor, prompts: Tensor, count: int) -> Tensor:
        """`[n, k]` tokens that may follow `[n, w]` windows one after the other; -1 from where nothing is known."""
        guesses = []
        for _ in range(count):
            keys = self._keys(windows, prompts)
            entries = self._table[keys & (_SLOTS - 1)]
            known = ((entries ^ keys) & ~0xFFFFFFFF == 0) & (entries != _NOTHING)
            first = entries.gather(1, known.long().argmax(1, keepdim=True)) & 0xFFFFFFFF
            guess = torch.where(known.any(1, keepdim=True), first, -1)
            guesses.append(guess)
            windows = torch.cat([windows[:, 1:], guess], 1)
        return torch.cat(guesses, 1)

    def _keys(self, windows: Tensor, prompts: Tensor) -> Tensor:
        """`[n, w]`, `[n]` -> `[n, l]` 64-bit keys of the windows' ends."""
        sums = ((windows + 2)[:, :, None] * self._weights).sum(1)
        return mix(sums + self._salts + prompts[:, None] * self._own)
