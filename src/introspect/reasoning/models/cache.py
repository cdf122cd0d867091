"""A key-value cache for batches whose rows come and go, and are not of one length.

transformers' own `DynamicCache` copies every key and value at every step (`torch.cat`) and again whenever a row leaves.
Here full-attention layers write in place: a step costs the columns it writes, a leaving row the copy of one row, and a
joining batch one copy of the whole. Layers of other kinds (sliding windows, linear attention) stay transformers' own,
and their rows go in step from the first to the last.

Legend: `n` rows, `h` key-value heads, `q` new columns, `t` columns of the cache, `d` width of a head.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Columns allocated ahead. Growing copies everything, so a larger block copies less often and holds more unused memory.
BLOCK = 64


class RowLayer(DynamicLayer):  # type: ignore[misc]
    """The keys and values `[n, h, t, d]` of one full-attention layer: views into a roomier block of memory.

    `places` `[n, q]` are the columns that the next update writes, row by row; None appends to all rows alike. Columns
    that a row has not written are the caller's to mask; they are finite.
    """

    places: Tensor | None = None
    end = 0  # the last of `places`, plus 1

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write `[n, h, q, d]` new columns and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = [states[:, :, :0] for states in (key_states, value_states)]
            self.keys, self.values = self._room
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2] if self.places is None else self.end
        if end > self._room[0].shape[-2]:
            self._reserve(end)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            if self.places is None:
                room[:, :, start:end] = states
            else:
                rows = torch.arange(len(room), device=room.device)[:, None]
                room[rows, :, self.places] = states.transpose(1, 2)
        self._view(self._room, end)
        keys, values = self._room
        return keys[:, :, :end], values[:, :, :end]

    def drop(self, holes: Tensor, movers: Tensor, rows: int) -> None:
        """Keep `rows` rows: the rows `movers` (all >= `rows`) move into the places `holes` (all < `rows`)."""
        for states in (self.keys, self.values):
            states[holes] = states[movers]
        self._view([room[:rows] for room in self._room], self.keys.shape[-2])

    def join(self, other: RowLayer, columns: int) -> None:
        """Append the rows of `other` below, both with their first `columns` columns."""
        joined = []
        for upper, lower in ((self.keys, other.keys), (self.values, other.values)):
            n, heads, _, width = upper.shape
            room = upper.new_zeros(n + lower.shape[0], heads, columns + BLOCK, width)
            for rows, part in ((room[:n], upper), (room[n:], lower)):
                part = part[:, :, :columns]
                rows[:, :, : part.shape[-2]] = part
            joined.append(room)
        self._view(joined, columns)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows `beam_idx`, in that order, repeated where an index is."""
        end = self.keys.shape[-2]
        self._view([states.index_select(0, beam_idx) for states in (self.keys, self.values)], end)

    def _reserve(self, end: int) -> None:
        grown = []
        for room in self._room:
            n, heads, columns, width = room.shape
            larger = room.new_zeros(n, heads, end + BLOCK, width)
            larger[:, :, :columns] = room
            grown.append(larger)
        self._room = grown

    def _view(self, room: list[Tensor], end: int) -> None:
        self._room = room
        self.keys, self.values = (states[:, :, :end] for states in room)


def row_cache(config: Any) -> DynamicCache:
    """An empty cache for a model of this transformers `config`."""
    cache = DynamicCache(config=config)
    cache.layers = [RowLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def is_ragged(cache: DynamicCache) -> bool:
    """Whether the rows may differ in length, and others may join: only where every layer is a `RowLayer`."""
    return bool(cache.layers) and all(isinstance(layer, RowLayer) for layer in cache.layers)


def goes_by_position(model: Any) -> bool:
    """Whether a causal language model obeys positions that are given token by token.

    Not so: models whose forward takes none, or that count columns (ALiBi; windows that their configuration does not
    call by the usual name).
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = base.config.get_text_config()
    by_column = getattr(config, "alibi", False) or "local" in (getattr(config, "attention_layers", None) or ())
    return "position_ids" in inspect.signature(base.forward).parameters and not by_column


def takes_rows(model: Any) -> bool:
    """Whether a causal language model obeys positions and a mask that are given token by token."""
    return goes_by_position(model) and is_ragged(row_cache(model.config))


def write_at(cache: DynamicCache, places: Tensor | None, end: int = 0) -> None:
    """Let the next updates write the columns `places` `[n, q]`, all below `end`; None lets them append."""
    for layer in cache.layers:
        if isinstance(layer, RowLayer):
            layer.places, layer.end = places, end


def join_rows(cache: DynamicCache, other: DynamicCache, columns: int) -> None:
    """Append the rows of `other` to `cache`, keeping the first `columns` columns of both."""
    for layer, more in zip(cache.layers, other.layers, strict=True):
        layer.join(more, columns)


def keep_rows(cache: DynamicCache, finished: Tensor) -> Tensor:
    """Drop the rows where `finished` `[n]` is true; returns `[m]`, which old row each of the kept rows is.

    The kept rows close up in a new order: the last rows fill the gaps, so that little is moved.
    """
    rows = int((~finished).sum())
    holes = finished[:rows].nonzero()[:, 0]
    movers = (~finished[rows:]).nonzero()[:, 0] + rows
    order = torch.arange(rows, device=finished.device)
    order[holes] = movers
    for layer in cache.layers:
        if isinstance(layer, RowLayer):
            layer.drop(holes, movers, rows)
        else:
            layer.reorder_cache(order)
    return order
