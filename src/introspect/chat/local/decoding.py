"""Token ids in, token ids out: batched decoding of any causal language model of transformers.

A row that is finished leaves at once, and waiting prompts take the free places while the others go on: a long answer
does not hold up short ones, and no step is spent on a finished row. A step reads a few guesses (`lookahead`) behind the
newest token of each row and keeps what was guessed right: rows advance at different paces, and what they draw is what
they would have drawn one by one.

Legend: `n` rows of the running batch, `k` guesses per row, `t` columns of its cache, `v` tokens of the vocabulary.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from introspect.chat.local.lookahead import WINDOW, Phrases
from introspect.chat.local.sampling import draw, uniforms
from introspect.core.errors import InputError

# Waiting prompts join when this share of the places is free: they are read faster together.
JOIN_SHARE = 0.25

# How far to guess. A guess costs time also where it is wrong, so a step goes on guessing while at least this share of
# the rows can be expected to be right, and reads at most so many tokens for each place of the batch.
_WORTH = 0.2
_READ = 8
# The estimated chance that a guess of a row is right: the first one, and its share in the next one.
_FIRST_CHANCE = 0.7
_MEMORY = 0.8

# Vector units read so many columns at a time, and some that are left over one by one.
_LANES = 16

# What has been said, by device and size of the vocabulary, and by whichever model: one that is tuned goes on speaking
# much like before, and wrong guesses cost little.
_said: dict[tuple[torch.device, int | None], Phrases] = {}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be continued: `ids`, by at most `limit` new tokens, drawn with these settings and this 64-bit seed.

    `tag` is the caller's own mark. Settings and seed are those of `introspect.chat.local.sampling`.
    """

    tag: Any
    ids: tuple[int, ...]
    limit: int
    temperature: float
    top_p: float
    top_k: int
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """The new token ids of a prompt. `stopped`: the last one is a stop token; else the limit was reached."""

    prompt: Prompt
    ids: list[int]
    stopped: bool


class Decoder:
    """Continues prompts with a causal language model, up to `batch_size` rows at a time.

    `model` is any transformers causal language model with a key-value cache, in evaluation mode; `lookahead` is the
    most tokens that are guessed per row and step, 0 guesses none. Raises InputError for a model that keeps no such
    cache.
    """

    def __init__(
        self, model: Any, *, stop_ids: Iterable[int], pad_id: int, batch_size: int, lookahead: int = 64
    ) -> None:
        from introspect.chat.local.cache import takes_rows

        self._model = model
        self._stop_ids = torch.tensor(sorted(set(stop_ids)), dtype=torch.long, device=model.device)
        self._pad_id = pad_id
        self._batch_size = batch_size
        self._lookahead = lookahead
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        accepted = inspect.signature(base.forward).parameters
        if "past_key_values" not in accepted:
            raise InputError(f"{type(base).__name__}: expected a causal language model with a key-value cache")
        self._ragged = takes_rows(model)
        self._phrases = _phrases_of(model) if lookahead and self._ragged else None
        self._takes = {name for name in ("position_ids", "logits_to_keep") if name in accepted}

    def decode(self, prompts: Iterable[Prompt]) -> Iterator[Completion]:
        """Yield one completion per prompt, as each is finished; for a prompt with a limit below 1 an empty one.

        Prompts are taken as places become free; it pays to give prompts of like length in a row, longest first.
        """
        waiting = iter(prompts)
        batch: _Batch | None = None
        while True:
            free = self._batch_size - (batch.size if batch else 0)
            open_ = batch is None or (batch.ragged and free >= self._batch_size * JOIN_SHARE)
            if open_ and (taken := list(islice(waiting, free))):
                yield from (Completion(prompt, [], False) for prompt in taken if prompt.limit < 1)
                if taken := [prompt for prompt in taken if prompt.limit >= 1]:
                    fresh = self._read(taken)
                    batch = batch.join(fresh) if batch else fresh
            elif batch:
                self._step(batch)
            else:
                return
            if batch:
                yield from batch.retire(self._stop_ids)
                batch = batch if batch.size else None

    # Not `inference_mode`, under which autocast converts the weights anew at each step.
    @torch.no_grad()
    def _read(self, prompts: Sequence[Prompt]) -> _Batch:
        """Read prompts in one forward pass and draw the first token of each."""
        # Several draws from one prompt share its reading.
        places: dict[tuple[int, ...], int] = {}
        copies = [places.setdefault(prompt.ids, len(places)) for prompt in prompts]
        width = max(map(len, places))
        batch = _Batch(prompts, self._model, width, ragged=self._ragged)
        padded = [[self._pad_id] * (width - len(ids)) + list(ids) for ids in places]
        lengths = torch.tensor([len(ids) for ids in places])[:, None]
        mask = torch.arange(width) >= width - lengths
        positions = (torch.arange(width) - (width - lengths)).clamp(min=0)
        logits = self._forward(batch, torch.tensor(padded), mask, positions, 1)
        if len(places) < len(prompts):
            chosen = torch.tensor(copies, device=logits.device)
            batch.copy_rows(chosen)
            logits = logits[chosen]
        if self._phrases:
            for ids in places:
                self._phrases.read(torch.tensor(ids, device=logits.device), hash(ids))
        self._append(batch, logits)
        return batch

    @torch.no_grad()
    def _step(self, batch: _Batch) -> None:
        """Feed the newest token of every row, and guesses behind it, and draw what follows."""
        rows = batch.rows
        guesses = self._guess(batch)
        ahead = torch.arange(guesses.shape[1] + 1, device=guesses.device)
        ids = torch.cat([rows.last[:, None], guesses.clamp(min=0)], 1)
        positions = (rows.length[:, None] + ahead).clamp(max=(rows.start + rows.limit - 1)[:, None])
        with batch.room(ahead, self._model.dtype) as mask:
            logits = self._forward(batch, ids, mask, positions, len(ahead))
        self._append(batch, logits, guesses)

    def _guess(self, batch: _Batch) -> Tensor:
        """`[n, k]` guesses of what follows the newest tokens, -1 for none."""
        rows = batch.rows
        if not self._phrases:
            return rows.last.new_empty(batch.size, 0)
        most = min(self._lookahead, max(_READ * self._batch_size // batch.size - 1, 1))
        right = rows.chance[:, None] ** torch.arange(1, most + 1, device=rows.chance.device)
        count = max(int((right.mean(0) >= _WORTH).sum()), 1)
        every = torch.arange(batch.size, device=rows.length.device)
        guesses = self._phrases.guess(rows.before(every, rows.length + 1, WINDOW), rows.prompt, count)
        return guesses[:, : int((guesses >= 0).any(0).sum())]  # behind an unknown token nothing is known

    def _append(self, batch: _Batch, logits: Tensor, guesses: Tensor | None = None) -> None:
        """Draw, and learn what was drawn."""
        (row, place), rows = batch.append(logits, self._stop_ids, guesses), batch.rows
        if self._phrases:
            self._phrases.learn(rows.before(row, place, WINDOW), rows.history[row, place], rows.prompt[row])

    def _forward(self, batch: _Batch, ids: Tensor, mask: Tensor, positions: Tensor, keep: int) -> Tensor:
        """`[n, q]` new ids, a mask, `[n, q]` positions -> `[n, keep, v]` logits after the last `keep` ids."""
        device = self._model.device
        extra = {"position_ids": positions.to(device), "logits_to_keep": keep}
        output = self._model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            past_key_values=batch.cache,
            use_cache=True,
            return_dict=True,
            **{name: extra[name] for name in self._takes},
        )
        return output.logits[:, -keep:]


@dataclass(slots=True)
class _Rows:
    """State of the running rows, an entry per row in every tensor.

    Row i's tokens are `history[i, : length[i] + 1]`, of which the first `start[i]` are its prompt; all but the last one
    are in the cache, from column `offset[i]` on.
    """

    offset: Tensor  # [n]
    start: Tensor  # [n] tokens of the prompt
    length: Tensor  # [n] tokens in the cache
    last: Tensor  # [n] the newest token, not yet in the cache
    limit: Tensor  # [n] new tokens at most
    seed: Tensor  # [n]
    prompt: Tensor  # [n] names the prompt
    top_k: Tensor  # [n]
    top_p: Tensor  # [n] float
    temperature: Tensor  # [n] float
    chance: Tensor  # [n] float, that a guess is right
    history: Tensor  # [n, at least the tokens of the longest row]

    @classmethod
    def begin(cls, prompts: Sequence[Prompt], width: int, device: torch.device) -> _Rows:
        """The state of prompts of which all but the last token are read, right-aligned in `width` columns."""

        def column(values: Iterable[float], dtype: torch.dtype = torch.long) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=device)

        history = torch.zeros(len(prompts), max(len(p.ids) for p in prompts), dtype=torch.long)
        for row, prompt in zip(history, prompts, strict=True):
            row[: len(prompt.ids)] = torch.tensor(prompt.ids)
        start = column(len(p.ids) for p in prompts)
        return cls(
            offset=width - start,
            start=start,
            length=start - 1,
            last=column(p.ids[-1] for p in prompts),
            limit=column(p.limit for p in prompts),
            seed=column(p.seed for p in prompts),
            prompt=column(hash(p.ids) for p in prompts),
            top_k=column(p.top_k for p in prompts),
            top_p=column((p.top_p for p in prompts), torch.float),
            temperature=column((p.temperature for p in prompts), torch.float),
            chance=column((_FIRST_CHANCE for _ in prompts), torch.float),
            history=history.to(device),
        )

    def record(self, tokens: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
        """Go on by the first `taken` `[n]`, one at least, of the `[n, q]` tokens that follow the newest ones.

        Returns their rows and their places in the history, `[m]` each.
        """
        room, needed = self.history.shape[1], int((self.length + taken).max()) + 1
        if needed > room:
            self.history = torch.nn.functional.pad(self.history, (0, max(needed, room + room // 4) - room))
        inside = torch.arange(tokens.shape[1], device=tokens.device) < taken[:, None]
        row, behind = inside.nonzero(as_tuple=True)
        place = (self.length + 1)[row] + behind
        self.history[row, place] = tokens[inside]
        self.last = tokens.gather(1, taken[:, None] - 1)[:, 0]
        self.length = self.length + taken
        return row, place

    def before(self, row: Tensor, place: Tensor, count: int) -> Tensor:
        """The `count` tokens in front of `[m]` places of `[m]` rows: `[m, count]`, -1 in front of the first token."""
        places = place[:, None] + torch.arange(-count, 0, device=place.device)
        return self.history[row[:, None], places.clamp(min=0)].where(places >= 0, -1)

    @property
    def produced(self) -> Tensor:
        """`[n]` new tokens."""
        return self.length + 1 - self.start

    def learn(self, right: Tensor, tried: Tensor) -> None:
        """Estimate anew the chance of a guess: `[n, k]` which were right, of those tried up to the first wrong one."""
        if not tried.shape[1]:
            return
        reached = torch.nn.functional.pad(right[:, :-1].long().cumprod(1), (1, 0), value=1) * tried
        share = (right * reached).sum(1) / reached.sum(1).clamp(min=1)
        self.chance = torch.where(tried[:, 0], _MEMORY * self.chance + (1 - _MEMORY) * share, self.chance)

    def fields(self) -> list[Tensor]:
        """All tensors, in the order of the constructor."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def select(self, order: Tensor) -> _Rows:
        """The rows `order`."""
        return _Rows(*(tensor[order] for tensor in self.fields()))

    def join(self, other: _Rows) -> _Rows:
        """These rows, then the other ones."""
        width = max(self.history.shape[1], other.history.shape[1])
        for rows in (self, other):
            rows.history = torch.nn.functional.pad(rows.history, (0, width - rows.history.shape[1]))
        return _Rows(*(torch.cat(pair) for pair in zip(self.fields(), other.fields(), strict=True)))


class _Batch:
    """Rows that are decoded together: prompts, state and cache, all in the same order.

    In a `ragged` batch rows advance at their own pace and others may join; else all go in step.
    """

    def __init__(self, prompts: Sequence[Prompt], model: Any, width: int, *, ragged: bool) -> None:
        from introspect.chat.local.cache import row_cache

        self.prompts = list(prompts)
        self.rows = _Rows.begin(prompts, width, model.device)
        self.cache = row_cache(model.config)
        self.ragged = ragged

    @property
    def size(self) -> int:
        """Running rows."""
        return len(self.prompts)

    def copy_rows(self, order: Tensor) -> None:
        """Make the cache's rows those of `order`, which may repeat."""
        for layer in self.cache.layers:
            layer.reorder_cache(order)

    @contextmanager
    def room(self, ahead: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
        """Let the cache take the columns `ahead` `[q]` of every row's end; gives the mask of what each may look at.

        For a ragged batch it is `[n, 1, q, t]` in `dtype`, what the attention adds to its scores: no model makes such a
        mask for itself. For one in step it is `[n, t]`.
        """
        from introspect.chat.local.cache import write_at

        rows = self.rows
        places = (rows.offset + rows.length)[:, None] + ahead
        end = int(places.max()) + 1
        if self.ragged:
            end += -end % _LANES
        columns = torch.arange(end, device=places.device)
        if not self.ragged:
            yield columns >= rows.offset[:, None]
            return
        hidden = (columns < rows.offset[:, None, None]) | (columns > places[:, :, None])
        write_at(self.cache, places, end)
        try:
            yield torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)[:, None]
        finally:
            write_at(self.cache, None)

    def append(self, logits: Tensor, stop_ids: Tensor, guesses: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw from `[n, 1 + k, v]` logits what follows the newest token and each of `[n, k]` guesses; keep what holds.

        A draw holds if the guesses before it are what was drawn, no stop token came before it, and the limit leaves
        room for it. Returns the rows and places of those that hold, `[m]` each: see `_Rows.record`.
        """
        rows = self.rows
        n, width, _ = logits.shape
        ahead = torch.arange(width, device=logits.device)
        seed, *each = (s.repeat_interleave(width) for s in (rows.seed, rows.temperature, rows.top_p, rows.top_k))
        uniform = uniforms(seed, (rows.produced[:, None] + ahead).flatten())
        tokens = draw(logits.flatten(0, 1), each[0], each[1], each[2], uniform).view(n, width)
        follows = ~torch.isin(tokens, stop_ids) & (ahead + 1 < (rows.limit - rows.produced)[:, None])
        if guesses is not None:
            right = tokens[:, :-1] == guesses
            rows.learn(right, guesses >= 0)
            follows = follows[:, :-1] & right
        return rows.record(tokens, 1 + follows[:, : width - 1].long().cumprod(1).sum(1))

    @torch.no_grad()
    def join(self, other: _Batch) -> _Batch:
        """Take in the rows of another batch."""
        from introspect.chat.local.cache import join_rows

        self.rows = self.rows.join(other.rows)
        self.prompts += other.prompts
        join_rows(self.cache, other.cache, int((self.rows.offset + self.rows.length).max()))
        return self

    @torch.no_grad()
    def retire(self, stop_ids: Tensor) -> list[Completion]:
        """Drop the finished rows and return their completions."""
        from introspect.chat.local.cache import keep_rows

        rows = self.rows
        stopped = (rows.last[:, None] == stop_ids).any(-1)
        finished = stopped | (rows.produced >= rows.limit)
        if not bool(finished.any()):
            return []
        gone = finished.nonzero()[:, 0].tolist()
        completions = [
            Completion(self.prompts[i], rows.history[i, rows.start[i] : rows.length[i] + 1].tolist(), bool(stopped[i]))
            for i in gone
        ]
        order = keep_rows(self.cache, finished)
        self.rows = rows.select(order)
        self.prompts = [self.prompts[i] for i in order.tolist()]
        return completions


def forget() -> None:
    """Forget what has been said: the next answers are guessed as by a new process. Only their time depends on it."""
    _said.clear()


def _phrases_of(model: Any) -> Phrases:
    key = model.device, getattr(model.config.get_text_config(), "vocab_size", None)
    if key not in _said:
        _said[key] = Phrases(model.device)
    return _said[key]
