from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st

from introspect.benchmarks.base import Slice
from introspect.core.errors import InputError
from tests.chat.asking import Numbers
from tests.composing import compose_config


@given(st.integers(1, 9), st.integers(0, 30), st.none() | st.integers(0, 40))
def test_slices_together_are_the_whole(count: int, size: int, limit: int | None) -> None:
    whole = Numbers(size).load("train", limit)
    slices = [Slice(benchmark=Numbers(size), index=index, count=count).load("train", limit) for index in range(count)]
    assert sorted((e for part in slices for e in part), key=lambda e: int(e.id[1:])) == whole
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_a_slice_is_known_by_its_benchmark() -> None:
    part = Slice(benchmark=Numbers(5), index=1, count=2)
    assert part.name == "numbers"
    assert [example.id for example in part.load("train")] == ["q1", "q3"]


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_slices_that_are_none(index: int, count: int) -> None:
    with pytest.raises(InputError, match=f"index={index} of count={count}"):
        Slice(benchmark=Numbers(), index=index, count=count)


@pytest.mark.parametrize(("command", "part"), [("train", "datamodule"), ("evaluate", "evaluation")])
def test_the_configs_give_each_slice_its_questions_and_its_store(command: str, part: str, tmp_path: Path) -> None:
    overrides = [f"+slice={command}", "slice.index=2", "slice.count=3", "data.sizes.train=10", "data.sizes.test=10"]
    cfg = compose_config(command, overrides, tmp_path)
    benchmark = instantiate(cfg[part].benchmark)
    split = {"train": "train", "evaluate": "test"}[command]
    assert [e.id for e in benchmark.load(split)] == [e.id for e in instantiate(cfg.data).load(split)][2::3]
    # One file for all that this process asks: on a network file system it must be nobody else's.
    stores = {cfg[part].store, cfg.judging.store, cfg[part].get("judging", cfg.judging).store}
    assert stores == {str(tmp_path / "data/cache/slices/2-of-3.sqlite")}
