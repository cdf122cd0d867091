"""Curves from CSV files, thinned out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.core.errors import InputError
from introspect.tracking.board.curves import Curve, read_curves
from tests.tracking.board.made import curves

NUMBERS = st.floats(-1e6, 1e6)


def test_a_short_curve_stays_as_it_is() -> None:
    curve = Curve(points=3)
    for step in range(5):
        curve.add(step, 10.0 * step)
    assert curve.points() == [(0, 0), (1, 10), (2, 20), (3, 30), (4, 40)]
    assert curve.values_per_point == 1


def test_neighbours_of_a_long_one_are_averaged() -> None:
    curve = Curve(points=2)
    for step in range(5):
        curve.add(step, 10.0 * step)
    assert curve.points() == [(0.5, 5.0), (2.5, 25.0), (4.0, 40.0)]
    assert curve.values_per_point == 2


@given(st.lists(NUMBERS, max_size=300), st.integers(1, 20))
def test_a_curve_is_bounded_and_keeps_range_and_order(values: list[float], points: int) -> None:
    curve = Curve(points)
    for step, value in enumerate(values):
        curve.add(step, value)
    found = curve.points()
    assert len(found) <= 2 * points
    assert (found == []) == (values == [])
    steps = [step for step, _ in found]
    assert steps == sorted(steps)
    assert all(min(values) - 1e-6 <= value <= max(values) + 1e-6 for _, value in found)


def test_metrics_are_read_by_name_without_those_of_the_test(tmp_path: Path) -> None:
    rows = [
        {"step": 9, "epoch": 0, "train/loss": 2.5, "lr": 0.1},
        {"step": 19, "epoch": 0, "train/loss": 1.5},
        {"step": 19, "epoch": 0, "val/loss": 3},
        {"step": 20, "epoch": 1, "test/accuracy": 1.0, "dissect/control/labels/detectors/total": 1},
    ]
    curves(tmp_path, rows)
    found = {name: curve.points() for name, curve in read_curves(tmp_path).items()}
    assert found == {"train/loss": [(9, 2.5), (19, 1.5)], "lr": [(9, 0.1)], "val/loss": [(19, 3)]}


def test_a_run_that_went_on_is_one_curve(tmp_path: Path) -> None:
    for version, step in ((10, 3), (2, 2), (0, 1)):
        curves(tmp_path, [{"step": step, "train/loss": step}], version)
    assert read_curves(tmp_path)["train/loss"].points() == [(1, 1), (2, 2), (3, 3)]


def test_what_is_not_finite_is_left_out_and_nothing_is_no_curve(tmp_path: Path) -> None:
    curves(tmp_path, [{"step": 1, "a": "nan"}, {"step": 2, "a": "inf"}, {"step": 3, "b": 1}])
    assert list(read_curves(tmp_path)) == ["b"]
    curves(tmp_path, []).write_text("")
    assert read_curves(tmp_path) == {}
    assert read_curves(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("step,a\n1,2\n2,x\n", r"metrics\.csv: row 2: a is 'x', expected a number"),
        ("step,a\n,2\n", r"metrics\.csv: row 1: step is '', expected a number"),
        ("step,a\n1\n", r"metrics\.csv: row 1 has 1 cells, expected 2"),
        ("a,b\n1,2\n", r"metrics\.csv: has no column 'step'"),
        ("step,\udcff\n", r"metrics\.csv: can not be read: .*utf-8"),
    ],
)
def test_a_broken_file_is_named_with_its_row(tmp_path: Path, text: str, complaint: str) -> None:
    path = curves(tmp_path, [])
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=complaint):
        read_curves(tmp_path)
