from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from introspect.chat.local.cache import RowLayer, join_rows, keep_rows, row_cache, write_at


@settings(max_examples=40)
@given(st.data())
def test_rows_that_come_and_go_keep_their_keys(data: st.DataObject) -> None:
    """A cache under random steps, departures and arrivals, against a list of each row's own columns."""
    numbers = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    rows: list[torch.Tensor] = []
    cache: Any = None
    for action in ["join", *data.draw(st.lists(st.sampled_from(["step", "drop", "join"]), max_size=12))]:
        if action == "step" and rows:
            states = torch.randn(len(rows), 2, 1, 3, generator=numbers)
            places = torch.tensor([row.shape[1] for row in rows])
            write_at(cache, places, int(places.max()) + 1)
            cache.update(states, -states, 0)
            rows = [torch.cat([row, new], 1) for row, new in zip(rows, states, strict=True)]
        elif action == "drop" and rows:
            finished = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
            order = keep_rows(cache, torch.tensor(finished)).tolist()
            assert sorted(order) == [i for i, gone in enumerate(finished) if not gone]
            rows = [rows[i] for i in order]
        elif action == "join":
            states = torch.randn(2, 2, data.draw(st.integers(1, 70)), 3, generator=numbers)
            more = _one_layer_cache()
            more.update(states, -states, 0)
            rows += list(states)
            if cache is None:
                cache = more
            else:
                join_rows(cache, more, max(row.shape[1] for row in rows))
        keys, values = cache.layers[0].keys, cache.layers[0].values
        assert len(keys) == len(values) == len(rows)
        assert keys.isfinite().all()
        for index, row in enumerate(rows):
            assert torch.equal(keys[index, :, : row.shape[1]], row)
            assert torch.equal(values[index, :, : row.shape[1]], -row)


def _one_layer_cache() -> Any:
    from transformers import Qwen3Config

    return row_cache(Qwen3Config(num_hidden_layers=1))


def test_joining_drops_the_columns_that_no_row_needs() -> None:
    layer: Any = RowLayer()
    other: Any = RowLayer()
    long, short = torch.randn(1, 2, 9, 3), torch.randn(1, 2, 4, 3)
    layer.update(long, long)
    other.update(short, short)
    layer.join(other, 5)
    assert torch.equal(layer.keys[0], long[0, :, :5])
    assert torch.equal(layer.keys[1], torch.cat([short[0], torch.zeros(2, 1, 3)], 1))
    assert layer.get_seq_length() == 5


def test_rows_that_join_where_there_is_room_copy_nothing_else() -> None:
    layer: Any = RowLayer()
    layer.update(torch.randn(3, 2, 9, 3), torch.randn(3, 2, 9, 5))  # values may be of another width
    layer.drop([(0, 2)], 2)
    rooms = [room.data_ptr() for room in layer._room]
    other: Any = RowLayer()
    keys, values = torch.randn(1, 2, 4, 3), torch.randn(1, 2, 4, 5)
    other.update(keys, values)
    layer.join(other, 9)
    layer.update(torch.randn(3, 2, 1, 3), torch.randn(3, 2, 1, 5))
    assert [room.data_ptr() for room in layer._room] == rooms
    assert torch.equal(layer.keys[2, :, :4], keys[0])
    assert torch.equal(layer.values[2, :, :4], values[0])


@pytest.mark.parametrize(("row", "moves"), [(0, [(0, 2)]), (2, [])])
def test_a_row_that_is_no_number_leaves_nothing_behind(row: int, moves: list[tuple[int, int]]) -> None:
    layer: Any = RowLayer()
    states = torch.randn(3, 2, 9, 3)
    states[row] = torch.nan
    layer.update(states, states)
    layer.drop(moves, 2)
    other: Any = RowLayer()
    other.update(torch.randn(1, 2, 4, 3), torch.randn(1, 2, 4, 3))
    layer.join(other, 12)
    assert layer.keys.isfinite().all()
    assert layer._room[0].isfinite().all()


def test_a_long_row_takes_no_room_for_those_that_left() -> None:
    layer: Any = RowLayer()
    layer.update(torch.randn(8, 2, 9, 3), torch.randn(8, 2, 9, 3))
    layer.drop([], 1)
    layer.update(torch.randn(1, 2, 200, 3), torch.randn(1, 2, 200, 3))
    assert layer._room[0].shape[0] == 1
