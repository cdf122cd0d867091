"""What the trace viewer is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.core.errors import InputError
from introspect.evaluation.rollouts import save_rollouts
from introspect.oracle.phases import Passage
from introspect.tracking.board.traces import highlighted, read_side
from tests.tracking.board.made import PLANNED, reasoning_run, rollout


def test_the_stretch_of_the_answer_is_cut_out() -> None:
    parts = [Passage("one two ", 1, False), Passage("three", 2, True)]
    assert list(highlighted(parts, (4, 10))) == [(1, "one ", 0), (1, "two ", 1), (2, "th", 1), (2, "ree", 0)]
    assert list(highlighted(parts, None)) == [(1, "one two ", 0), (2, "three", 0)]
    assert list(highlighted([], None)) == []


@given(st.lists(st.text(min_size=1, max_size=8), max_size=5), st.integers(0, 30), st.integers(1, 10))
def test_highlighted_texts_are_the_passages(texts: list[str], start: int, length: int) -> None:
    whole = "".join(texts)
    found = list(highlighted([Passage(text, 1, False) for text in texts], (start, start + length)))
    assert "".join(text for _, text, _ in found) == whole
    assert "".join(text for _, text, is_answer in found if is_answer) == whole[start : start + length]


def test_a_side_with_its_judgments(tmp_path: Path) -> None:
    tuned = [rollout(0), rollout(1, "Nobody knows.", "Ancus"), rollout(2)]
    reasoning_run(tmp_path, tuned=tuned, judged=True)
    side = read_side(tmp_path, "model", 2)
    assert side is not None
    assert (len(side.rows), side.total) == (2, 3)
    assert side.presence == (0.5, 0.5, 0.5, 0.5, 0.5)
    first, second = side.rows
    assert "".join(text for _, text, _ in first["parts"]) == PLANNED
    assert [(phase, text) for phase, text, is_answer in first["parts"] if is_answer] == [(3, "Numa")]
    assert (first["answer"], first["outcome"], first["gold"]) == ("Numa", "correct", ["Numa"])
    assert first["judged"]["rrp"] == {"first_correct": 3, "redundant": [4], "confidence": 0.9}
    assert first["judged"]["mqi"]["phases"] == [1, 2]
    assert (second["answer"], second["outcome"], second["parts"]) == ("Ancus", "wrong", [(3, "Nobody knows.", 0)])
    assert read_side(tmp_path, "baseline", 2) is None


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rollouts/model.parquet"
    save_rollouts([rollout()], path)
    judgments = tmp_path / "judgments/model.parquet"
    judgments.parent.mkdir()
    judgments.write_text("no Parquet")
    with pytest.raises(InputError, match=r"judgments/model\.parquet: is not a file of judgments"):
        read_side(tmp_path, "model", 5)
    path.write_text("no Parquet")
    with pytest.raises(InputError, match=r"rollouts/model\.parquet: not a readable Parquet file"):
        read_side(tmp_path, "model", 5)
