"""A key-value cache for batches whose rows join and leave, and differ in length.

transformers' `DynamicCache` copies every key and value at every step (`torch.cat`) and again whenever a row leaves.
Here full-attention layers write in place: a step costs the columns it writes, a leaving row the copy of one row, and a
joining batch the copy of its own rows, where there is room. Other layers (sliding windows, linear attention) stay
transformers' own, and all their rows start and end together.

Legend: `n` rows, `h` key-value heads, `q` new columns, `t` columns of the cache, `d` width of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Columns that are allocated ahead: at least so many, and this fraction of those in use. Growing copies everything, so
# more of them mean fewer copies and more unused memory.
BLOCK = 64
AHEAD = 0.125


class RowLayer(DynamicLayer):  # type: ignore[misc]
    """The keys and values `[n, h, t, d]` of one full-attention layer: views into a larger block of memory.

    The caller masks the columns that a row has not written; they are finite.

    Attributes:
        places: `[n]`, the column of each row that the next update writes; None appends `q` columns to all rows.
        end: the largest of `places`, plus 1.
    """

    places: Tensor | None = None
    end = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write `[n, h, q, d]` new columns and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = [states[:, :, :0] for states in (key_states, value_states)]
            self.keys, self.values = self._room
        rows, start = len(key_states), self.keys.shape[-2]
        end = start + key_states.shape[-2] if self.places is None else self.end
        self._reserve(rows, end)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            if self.places is None:
                room[:rows, :, start:end] = states
            else:
                room[torch.arange(rows, device=room.device), :, self.places] = states[:, :, 0]
        self._view(rows, end)
        keys, values = self._room
        return keys[:rows, :, :end], values[:rows, :, :end]

    def drop(self, moves: Sequence[tuple[int, int]], rows: int) -> None:
        """Keep `rows` rows: the second row of each pair (>= `rows`) replaces the first (< `rows`)."""
        had = len(self.keys)
        for room in self._room:
            for hole, mover in moves:  # one contiguous copy each, several times faster than indexing
                room[hole] = room[mover]
            room[rows:had] = 0  # rows that take these places later must not read a NaN
        self._view(rows, self.keys.shape[-2])

    def join(self, other: RowLayer, columns: int) -> None:
        """Append the rows of `other`, and keep the first `columns` columns of both."""
        rows, more = len(self.keys), len(other.keys)
        self._reserve(rows + more, columns)
        for room, states in zip(self._room, (other.keys, other.values), strict=True):
            states = states[:, :, :columns]
            room[rows : rows + more, :, : states.shape[-2]] = states
        self._view(rows + more, columns)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows `beam_idx`, in that order; an index may repeat."""
        end = self.keys.shape[-2]
        self._room = [states.index_select(0, beam_idx) for states in (self.keys, self.values)]
        self._view(len(beam_idx), end)

    def _reserve(self, rows: int, columns: int) -> None:
        """Allocate at least so many rows and columns."""
        had, _, wide, _ = self._room[0].shape
        if columns > wide:
            # Rows that have left need no memory in the further columns of a long one.
            had, wide = rows, columns + max(BLOCK, int(AHEAD * columns))
        elif rows <= had:
            return
        n, _, t, _ = self.keys.shape
        grown = []
        for room in self._room:
            _, heads, _, width = room.shape  # keys and values may differ in these
            larger = room.new_empty(max(rows, had), heads, wide, width)
            larger[:n, :, :t] = room[:n, :, :t]
            larger[:n, :, t:], larger[n:] = 0, 0
            grown.append(larger)
        self._room = grown

    def _view(self, rows: int, end: int) -> None:
        self.keys, self.values = (room[:rows, :, :end] for room in self._room)


def row_cache(config: Any) -> DynamicCache:
    """Return an empty cache for a model of this transformers `config`."""
    cache = DynamicCache(config=config)
    cache.layers = [RowLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def is_ragged(cache: DynamicCache) -> bool:
    """Return whether rows may differ in length and join later: whether every layer is a `RowLayer`."""
    return bool(cache.layers) and all(isinstance(layer, RowLayer) for layer in cache.layers)


def goes_by_position(model: Any) -> bool:
    """Return whether a causal language model takes the position of every token.

    Some models take none, or count columns (ALiBi; windows under another name in the configuration).
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = base.config.get_text_config()
    by_column = getattr(config, "alibi", False) or "local" in (getattr(config, "attention_layers", None) or ())
    return "position_ids" in inspect.signature(base.forward).parameters and not by_column


def takes_rows(model: Any) -> bool:
    """Return whether a causal language model takes a position and a mask of every token, so that rows may differ."""
    return goes_by_position(model) and is_ragged(row_cache(model.config))


def write_at(cache: DynamicCache, places: Tensor | None, end: int = 0) -> None:
    """Make the next updates write the columns `places` `[n]`, all below `end`; None makes them append."""
    for layer in cache.layers:
        if isinstance(layer, RowLayer):
            layer.places, layer.end = places, end


def join_rows(cache: DynamicCache, other: DynamicCache, columns: int) -> None:
    """Append the rows of `other` to `cache`, and keep the first `columns` columns of both."""
    for layer, more in zip(cache.layers, other.layers, strict=True):
        layer.join(more, columns)


def keep_rows(cache: DynamicCache, finished: Tensor) -> Tensor:
    """Drop the rows where `finished` `[n]` is true.

    The last rows fill the gaps, so that few rows are copied.

    Returns:
        `[m]`, the old row of each of the kept rows.
    """
    rows = int((~finished).sum())
    holes = finished[:rows].nonzero()[:, 0]
    movers = (~finished[rows:]).nonzero()[:, 0] + rows
    order = torch.arange(rows, device=finished.device)
    order[holes] = movers
    moves = list(zip(holes.tolist(), movers.tolist(), strict=True))
    for layer in cache.layers:
        if isinstance(layer, RowLayer):
            layer.drop(moves, rows)
        else:
            layer.reorder_cache(order)
    return order
