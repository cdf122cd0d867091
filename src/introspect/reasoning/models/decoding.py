"""Token ids in, token ids out: batched decoding of any causal language model of transformers.

The rows of a batch are right-aligned. A row that is finished leaves at once, and waiting prompts take the free places
while the others go on: a long answer does not hold up short ones, and no step is spent on a finished row.

Legend: `n` rows of the running batch, `t` columns of its cache, `v` tokens of the vocabulary.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from introspect.errors import InputError
from introspect.reasoning.models.sampling import draw, uniforms

# Waiting prompts join when this share of the places is free: a join copies the whole cache, and prompts are read faster
# together.
JOIN_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be continued: `ids`, by at most `limit` new tokens, drawn with these settings and this 64-bit seed.

    `tag` is the caller's own mark. Settings and seed are those of `introspect.reasoning.models.sampling`.
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

    `model` is any transformers causal language model with a key-value cache, in evaluation mode. Raises InputError for
    a model that keeps no such cache.
    """

    def __init__(self, model: Any, *, stop_ids: Iterable[int], pad_id: int, batch_size: int) -> None:
        self._model = model
        self._stop_ids = torch.tensor(sorted(set(stop_ids)), dtype=torch.long, device=model.device)
        self._pad_id = pad_id
        self._batch_size = batch_size
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        accepted = inspect.signature(base.forward).parameters
        if "past_key_values" not in accepted:
            raise InputError(f"{type(base).__name__}: expected a causal language model with a key-value cache")
        self._takes = {name for name in ("position_ids", "logits_to_keep") if name in accepted}

    def decode(self, prompts: Iterable[Prompt]) -> Iterator[Completion]:
        """Yield one completion per prompt, as each is finished; for a prompt with a limit below 1 an empty one.

        Prompts are taken as places become free; it pays to give prompts of like length in a row, longest first.
        """
        waiting = iter(prompts)
        batch: _Batch | None = None
        while True:
            free = self._batch_size - (batch.size if batch else 0)
            open_ = batch is None or (batch.joinable and free >= self._batch_size * JOIN_SHARE)
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

    @torch.inference_mode()
    def _read(self, prompts: Sequence[Prompt]) -> _Batch:
        """Read prompts in one forward pass and draw the first token of each."""
        batch = _Batch(prompts, self._model)
        # Several draws from one prompt share its reading.
        places: dict[tuple[int, ...], int] = {}
        copies = [places.setdefault(prompt.ids, len(places)) for prompt in prompts]
        width = max(map(len, places))
        padded = [[self._pad_id] * (width - len(ids)) + list(ids) for ids in places]
        lengths = torch.tensor([len(ids) for ids in places])[:, None]
        mask = torch.arange(width) >= width - lengths
        positions = (torch.arange(width) - (width - lengths)).clamp(min=0)
        logits = self._forward(batch, torch.tensor(padded), mask, positions)
        if len(places) < len(prompts):
            chosen = torch.tensor(copies, device=logits.device)
            batch.copy_rows(chosen)
            logits = logits[chosen]
        batch.append(logits)
        return batch

    @torch.inference_mode()
    def _step(self, batch: _Batch) -> None:
        """Feed the newest token of every row and draw the next one."""
        rows = batch.rows
        columns = torch.arange(batch.columns + 1, device=rows.length.device)
        mask = columns >= (batch.columns - rows.length)[:, None]
        logits = self._forward(batch, rows.last[:, None], mask, rows.length[:, None])
        rows.length = rows.length + 1
        batch.append(logits)

    def _forward(self, batch: _Batch, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """`[n, q]` new ids, `[n, t]` mask, `[n, q]` positions -> `[n, v]` logits after the last one."""
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
    """State of the running rows, an entry per row in every tensor; row i's new tokens are `output[i, :produced[i]]`."""

    length: Tensor  # [n] tokens in the cache
    produced: Tensor  # [n] new tokens
    last: Tensor  # [n] the newest token, not yet in the cache
    limit: Tensor  # [n]
    seed: Tensor  # [n]
    top_k: Tensor  # [n]
    top_p: Tensor  # [n] float
    temperature: Tensor  # [n] float
    output: Tensor  # [n, largest limit]

    @classmethod
    def start(cls, prompts: Sequence[Prompt], device: torch.device) -> _Rows:
        """The state of prompts that were read."""

        def column(values: Iterable[float], dtype: torch.dtype = torch.long) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=device)

        return cls(
            length=column(len(p.ids) for p in prompts),
            produced=column(0 for _ in prompts),
            last=column(0 for _ in prompts),
            limit=column(p.limit for p in prompts),
            seed=column(p.seed for p in prompts),
            top_k=column(p.top_k for p in prompts),
            top_p=column((p.top_p for p in prompts), torch.float),
            temperature=column((p.temperature for p in prompts), torch.float),
            output=torch.zeros(len(prompts), max(p.limit for p in prompts), dtype=torch.long, device=device),
        )

    def fields(self) -> list[Tensor]:
        """All tensors, in the order of the constructor."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def select(self, order: Tensor) -> _Rows:
        """The rows `order`."""
        return _Rows(*(tensor[order] for tensor in self.fields()))

    def join(self, other: _Rows) -> _Rows:
        """These rows, then the other ones."""
        width = max(self.output.shape[1], other.output.shape[1])
        for rows in (self, other):
            rows.output = torch.nn.functional.pad(rows.output, (0, width - rows.output.shape[1]))
        return _Rows(*(torch.cat(pair) for pair in zip(self.fields(), other.fields(), strict=True)))


class _Batch:
    """Rows that are decoded together: prompts, state and cache, all in the same order."""

    def __init__(self, prompts: Sequence[Prompt], model: Any) -> None:
        from introspect.reasoning.models.cache import row_cache

        self.prompts = list(prompts)
        self.rows = _Rows.start(prompts, model.device)
        self.cache = row_cache(model.config)

    @property
    def size(self) -> int:
        """Running rows."""
        return len(self.prompts)

    @property
    def columns(self) -> int:
        """Columns of the cache: the length of the longest row that was ever in it."""
        return int(self.cache.get_seq_length())

    @property
    def joinable(self) -> bool:
        """Whether the model's cache lets other rows in."""
        from introspect.reasoning.models.cache import can_join

        return can_join(self.cache)

    def copy_rows(self, order: Tensor) -> None:
        """Make the cache's rows those of `order`, which may repeat."""
        for layer in self.cache.layers:
            layer.reorder_cache(order)

    def append(self, logits: Tensor) -> None:
        """Draw the next token of every row from `[n, v]` logits."""
        rows = self.rows
        uniform = uniforms(rows.seed, rows.produced)
        rows.last = draw(logits, rows.temperature, rows.top_p, rows.top_k, uniform)
        rows.output.scatter_(1, rows.produced[:, None], rows.last[:, None])
        rows.produced = rows.produced + 1

    @torch.inference_mode()
    def join(self, other: _Batch) -> _Batch:
        """Take in the rows of another batch."""
        from introspect.reasoning.models.cache import join_rows

        self.rows = self.rows.join(other.rows)
        self.prompts += other.prompts
        join_rows(self.cache, other.cache, int(self.rows.length.max()))
        return self

    @torch.inference_mode()
    def retire(self, stop_ids: Tensor) -> list[Completion]:
        """Drop the finished rows and return their completions."""
        from introspect.reasoning.models.cache import keep_rows

        rows = self.rows
        stopped = (rows.last[:, None] == stop_ids).any(-1)
        finished = stopped | (rows.produced >= rows.limit)
        if not bool(finished.any()):
            return []
        gone = finished.nonzero()[:, 0].tolist()
        completions = [
            Completion(self.prompts[i], rows.output[i, : int(rows.produced[i])].tolist(), bool(stopped[i]))
            for i in gone
        ]
        order = keep_rows(self.cache, finished)
        self.rows = rows.select(order)
        self.prompts = [self.prompts[i] for i in order.tolist()]
        return completions
