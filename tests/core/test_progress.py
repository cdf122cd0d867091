"""Progress is shown to a person, told to a log, and kept from the other ranks."""

from __future__ import annotations

import io
import logging

import pytest
import rich
from rich.console import Console

from introspect.core import progress
from introspect.core.progress import track


def test_items_pass_through_in_order() -> None:
    assert list(track(iter([3, 1, 2]), description="x")) == [3, 1, 2]
    assert list(track([], description="x")) == []


def test_lines_are_sparse_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = iter(range(0, 1000, 5))  # five seconds between two looks at the clock
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    caplog.set_level(logging.INFO)
    assert len(list(track(range(7), description="drafts"))) == 7
    assert caplog.messages == [
        "drafts: 3/7, 0.2/s, 0:00:20 left",
        "drafts: 6/7, 0.2/s, 0:00:05 left",
        "drafts: 7/7, 0.2/s",
    ]


def test_the_total_may_be_unknown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    list(track(iter("abc"), description="x"))
    assert caplog.messages[-1].startswith("x: 3, ")


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_other_ranks_are_silent(name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv(name, "1")
    assert list(track([1], description="x")) == [1]
    assert caplog.messages == []


def test_bars_may_stand_within_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(rich, "_console", Console(file=screen, force_terminal=True, width=80))
    assert [list(track(range(2), description="inner")) for _ in track([1], description="outer")] == [[0, 1]]
    assert "inner" in screen.getvalue()
    assert "outer" in screen.getvalue()


def test_a_loop_that_is_left_early_leaves_the_screen_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(rich, "_console", console)
    items = track(range(5), description="x")
    next(items)
    items.close()
    assert list(track([1], description="again")) == [1]
