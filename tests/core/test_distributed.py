from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.strategies import FSDPStrategy, SingleDeviceStrategy

from introspect.core.distributed import batches, check_whole, share
from introspect.core.errors import InputError


@given(count=st.integers(0, 60), size=st.integers(1, 7), replicas=st.integers(1, 5))
def test_every_item_is_in_one_batch_of_one_process(count: int, size: int, replicas: int) -> None:
    every = [batches(count, size, replicas, rank) for rank in range(replicas)]
    assert sorted(i for own in every for batch in own for i in batch) == list(range(count))
    assert len({len(own) for own in every}) == 1
    lengths = [len(batch) for own in every for batch in own]
    assert all(length <= size + 1 for length in lengths)
    if count >= replicas:
        assert all(lengths)


@given(count=st.integers(0, 20), replicas=st.integers(1, 5))
def test_shares_in_order_are_the_whole(count: int, replicas: int) -> None:
    items = list(range(count))
    assert [i for rank in range(replicas) for i in share(items, replicas, rank)] == items


def test_answers_want_whole_weights() -> None:
    check_whole(cast(Any, SimpleNamespace(strategy=SingleDeviceStrategy())))
    with pytest.raises(InputError, match=r"train with test=false .*then evaluate\.py ckpt_path="):
        check_whole(cast(Any, SimpleNamespace(strategy=FSDPStrategy())))
