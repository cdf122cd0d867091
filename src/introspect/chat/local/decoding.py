"""Continuous batching for any causal language model of transformers: token ids in, token ids out.

A finished row leaves at once, and waiting prompts take its place while the others continue: a long completion does not
delay short ones, and no step is spent on a finished row. The tokens of a row do not depend on the other rows.

Legend: `n` rows of the running batch, `q` tokens per row of a forward pass, `t` columns of its cache, `v` tokens of the
vocabulary.
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
from torch.nn import functional

from introspect.chat.local.sampling import draw
from introspect.core.errors import InputError
from introspect.core.seeds import uniforms

# Waiting prompts join when this fraction of the rows is free, because prompts are read faster together.
JOIN_FRACTION = 0.25


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to continue.

    Attributes:
        tag: identifies the prompt to the caller.
        ids: its token ids.
        limit: new tokens at most.
        temperature: see `introspect.chat.local.sampling.draw`, as are the next two.
        top_p: of the draws.
        top_k: of the draws.
        seed: of the draws, a signed 64-bit integer.
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
    """The completion of a prompt.

    Attributes:
        prompt: the prompt.
        ids: the new token ids.
        stopped: whether the last one is a stop token; if not, the limit was reached.
    """

    prompt: Prompt
    ids: list[int]
    stopped: bool


class Decoder:
    """Continues prompts with a causal language model, up to `batch_size` rows at a time.

    Args:
        model: any transformers causal language model with a key-value cache, in evaluation mode.
        stop_ids: tokens that end a completion.
        pad_id: token that pads short prompts; any token of the vocabulary.
        batch_size: rows at most.

    Raises:
        InputError: the model has no key-value cache.
    """

    def __init__(self, model: Any, *, stop_ids: Iterable[int], pad_id: int, batch_size: int) -> None:
        from introspect.chat.local.cache import takes_rows

        self._model = model
        self._stop_ids = torch.tensor(sorted(set(stop_ids)), dtype=torch.long, device=model.device)
        self._pad_id = pad_id
        self._batch_size = batch_size
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        accepted = inspect.signature(base.forward).parameters
        if "past_key_values" not in accepted:
            raise InputError(f"{type(base).__name__}: expected a causal language model with a key-value cache")
        self._ragged = takes_rows(model)
        self._takes = {name for name in ("position_ids", "logits_to_keep") if name in accepted}

    def decode(self, prompts: Iterable[Prompt]) -> Iterator[Completion]:
        """Yield one completion per prompt, as each is finished; an empty one for a prompt with a limit below 1.

        Prompts are taken as rows become free. Decoding is fastest if neighbours are of similar length, longest first.
        """
        waiting = iter(prompts)
        batch: _Batch | None = None
        while True:
            free = self._batch_size - (batch.size if batch else 0)
            open_ = batch is None or (batch.ragged and free >= self._batch_size * JOIN_FRACTION)
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

    # Not `inference_mode`, under which autocast converts the weights again at each step.
    @torch.no_grad()
    def _read(self, prompts: Sequence[Prompt]) -> _Batch:
        """Read prompts in one forward pass and draw the first token of each."""
        # Several draws from one prompt read it once.
        places: dict[tuple[int, ...], int] = {}
        copies = [places.setdefault(prompt.ids, len(places)) for prompt in prompts]
        width = max(map(len, places))
        batch = _Batch(prompts, self._model, width, ragged=self._ragged)
        padded = [[self._pad_id] * (width - len(ids)) + list(ids) for ids in places]
        lengths = torch.tensor([len(ids) for ids in places])[:, None]
        mask = torch.arange(width) >= width - lengths
        positions = (torch.arange(width) - (width - lengths)).clamp(min=0)
        logits = self._forward(batch, torch.tensor(padded), mask, positions)
        if len(places) < len(prompts):
            chosen = torch.tensor(copies, device=logits.device)
            batch.copy_rows(chosen)
            logits = logits[chosen]
        batch.rows.draw(logits)
        return batch

    @torch.no_grad()
    def _step(self, batch: _Batch) -> None:
        """Feed the newest token of every row and draw the next one."""
        rows = batch.rows
        with batch.room(self._model.dtype) as mask:
            logits = self._forward(batch, rows.last[:, None], mask, rows.length[:, None])
        rows.length = rows.length + 1
        rows.draw(logits)

    def _forward(self, batch: _Batch, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Run the model on `[n, q]` new ids, a mask and `[n, q]` positions; return `[n, v]` logits of the last ids."""
        device = self._model.device
        extra = {"position_ids": positions.to(device), "logits_to_keep": 1}
        output = self._model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            past_key_values=batch.cache,
            use_cache=True,
            return_dict=True,
            **{name: extra[name] for name in self._takes},
        )
        return output.logits[:, -1]


@dataclass(slots=True)
class _Rows:
    """State of the running rows, with one entry per row in every tensor.

    Attributes:
        offset: [n], the row's first column in the cache.
        length: [n], tokens in the cache: the prompt and all new tokens but the last.
        produced: [n], new tokens.
        limit: [n], new tokens at most.
        tokens: [n, at least the largest of `produced`], the new tokens.
        seed: [n], of the row's draws.
        temperature: [n], of the row's draws.
        top_p: [n], of the row's draws.
        top_k: [n], of the row's draws.
    """

    offset: Tensor
    length: Tensor
    produced: Tensor
    limit: Tensor
    tokens: Tensor
    seed: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor

    @classmethod
    def begin(cls, prompts: Sequence[Prompt], width: int, device: torch.device) -> _Rows:
        """Return the state of prompts that are right-aligned in `width` columns, before the first draw."""

        def column(values: Iterable[float], dtype: torch.dtype = torch.long) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=device)

        length = column(len(p.ids) for p in prompts)
        return cls(
            offset=width - length,
            length=length,
            produced=torch.zeros_like(length),
            limit=column(p.limit for p in prompts),
            tokens=length.new_zeros(len(prompts), 0),
            seed=column(p.seed for p in prompts),
            temperature=column((p.temperature for p in prompts), torch.float),
            top_p=column((p.top_p for p in prompts), torch.float),
            top_k=column(p.top_k for p in prompts),
        )

    @property
    def last(self) -> Tensor:
        """[n], the newest token of each row."""
        return self.tokens.gather(1, self.produced[:, None] - 1)[:, 0]

    def draw(self, logits: Tensor) -> None:
        """Draw a token for each row from `[n, v]` logits."""
        uniform = uniforms(self.seed, self.produced)
        drawn = draw(logits, self.temperature, self.top_p, self.top_k, uniform)
        room, needed = self.tokens.shape[1], int(self.produced.max()) + 1
        if needed > room:
            self.tokens = functional.pad(self.tokens, (0, max(needed, room + room // 4) - room))
        self.tokens.scatter_(1, self.produced[:, None], drawn[:, None])
        self.produced = self.produced + 1

    def fields(self) -> list[Tensor]:
        """Return all tensors, in the order of the constructor."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def select(self, order: Tensor) -> _Rows:
        """Return the rows `order`."""
        return _Rows(*(tensor[order] for tensor in self.fields()))

    def join(self, other: _Rows) -> _Rows:
        """Return these rows, then the other ones."""
        width = max(self.tokens.shape[1], other.tokens.shape[1])
        for rows in (self, other):
            rows.tokens = functional.pad(rows.tokens, (0, width - rows.tokens.shape[1]))
        return _Rows(*(torch.cat(pair) for pair in zip(self.fields(), other.fields(), strict=True)))


class _Batch:
    """Rows that are decoded together: prompts, state and cache, all in the same order.

    Args:
        prompts: one per row.
        model: the model.
        width: columns of the longest prompt.
        ragged: whether rows whose prompts end at other columns may join; if not, all rows start together.
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
        """Replace the cache's rows by the rows `order`, which may repeat."""
        for layer in self.cache.layers:
            layer.reorder_cache(order)

    @contextmanager
    def room(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """Prepare the cache for one more column at the end of every row, and give the attention mask.

        For a ragged batch it is `[n, 1, 1, t]` in `dtype`, which the attention adds to its scores, because no model
        makes such a mask from token ids. For the others it is `[n, t]`, true where a row may attend.
        """
        from introspect.chat.local.cache import write_at

        rows = self.rows
        places = rows.offset + rows.length
        columns = torch.arange(int(places.max()) + 1, device=places.device)
        if not self.ragged:
            yield columns >= rows.offset[:, None]
            return
        hidden = (columns < rows.offset[:, None]) | (columns > places[:, None])
        write_at(self.cache, places, len(columns))
        try:
            yield torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)[:, None, None]
        finally:
            write_at(self.cache, None)

    @torch.no_grad()
    def join(self, other: _Batch) -> _Batch:
        """Append the rows of another batch."""
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
            Completion(self.prompts[i], rows.tokens[i, : rows.produced[i]].tolist(), bool(stopped[i])) for i in gone
        ]
        order = keep_rows(self.cache, finished)
        self.rows = rows.select(order)
        self.prompts = [self.prompts[i] for i in order.tolist()]
        return completions
