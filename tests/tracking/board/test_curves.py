"""Curves from CSV files, thinned out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.core.errors import InputError
from introspect.tracking.board.curves import Curve, read_curves, thin
from tests.tracking.board.made import curves


def test_a_short_curve_stays_as_it_is_and_neighbors_of_a_long_one_are_averaged() -> None:
    steps = np.arange(5.0)
    assert thin(steps, 10 * steps, points=3) == Curve((0, 1, 2, 3, 4), (0, 10, 20, 30, 40), 1)
    assert thin(steps, 10 * steps, points=2) == Curve((0.5, 2.5, 4.0), (5, 25, 40), 2)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 20))
def test_a_curve_is_bounded_and_keeps_range_and_order(values: list[float], points: int) -> None:
    found = thin(np.arange(len(values), dtype=float), np.array(values), points)
    assert len(found.steps) == len(found.values) <= 2 * points
    assert list(found.steps) == sorted(found.steps)
    assert all(min(values) - 1e-6 <= value <= max(values) + 1e-6 for value in found.values)


def test_metrics_are_read_by_name_without_those_of_the_test(tmp_path: Path) -> None:
    rows = [
        {"step": 9, "epoch": 0, "train/loss": 2.5, "lr": 0.1},
        {"step": 19, "epoch": 0, "train/loss": 1.5},
        {"step": 19, "epoch": 0, "val/loss": 3},
        {"step": 20, "epoch": 1, "test/accuracy": 1.0, "dissect/control/labels/detectors/total": 1},
    ]
    curves(tmp_path, rows)
    assert read_curves(tmp_path) == {
        "train/loss": Curve((9, 19), (2.5, 1.5)),
        "lr": Curve((9,), (0.1,)),
        "val/loss": Curve((19,), (3,)),
    }


def test_the_versions_of_a_resumed_run_are_one_curve(tmp_path: Path) -> None:
    for version, step in ((10, 3), (2, 2), (0, 1)):
        curves(tmp_path, [{"step": step, "train/loss": step}], version)
    assert read_curves(tmp_path) == {"train/loss": Curve((1, 2, 3), (1, 2, 3))}


def test_values_that_are_not_finite_are_left_out_and_an_empty_file_has_no_curve(tmp_path: Path) -> None:
    curves(tmp_path, [{"step": 1, "a": "nan"}, {"step": 2, "a": "inf"}, {"step": 3, "b": 1}])
    assert list(read_curves(tmp_path)) == ["b"]
    curves(tmp_path, []).write_text("")
    assert read_curves(tmp_path) == {}
    assert read_curves(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("step,a\n1,2\n2,x\n", r"metrics\.csv: row 3: a is 'x', expected a number"),
        ("step,a\n,2\n", r"metrics\.csv: row 2: step is '', expected a number"),
        ("step,a\n1\n", r"metrics\.csv: cannot be read: .*Row #2: Expected 2 columns, got 1"),
        ("a,b\n1,2\n", r"metrics\.csv: has no column 'step'"),
        ("step,\udcff\n", r"metrics\.csv: cannot be read: .*utf-8"),
    ],
)
def test_a_broken_file_is_named_with_its_row(tmp_path: Path, text: str, complaint: str) -> None:
    path = curves(tmp_path, [])
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=complaint):
        read_curves(tmp_path)
