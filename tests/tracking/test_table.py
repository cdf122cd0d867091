from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.tracking.table import Run, best, compare_arms, labels_of, latex, markdown, published, spread

NAMES = {"test/accuracy": "accuracy ↑", "dissect/detectors/total": "detectors", "model/aes": "AES"}


def runs():
    found = {
        "scratch": {"1": (0.70, 10), "2": (0.72, 14), "3": (0.74, 12)},
        "kd": {"1": (0.75, 13), "2": (0.75, 15), "3": (0.78, 17)},
    }
    return [
        Run(arm, seed, {"test/accuracy": accuracy, "dissect/detectors/total": float(detectors)})
        for arm, seeds in found.items()
        for seed, (accuracy, detectors) in seeds.items()
    ]


def test_arms_stand_side_by_side_and_differences_are_paired_by_seed():
    assert markdown(compare_arms(runs(), NAMES)).splitlines() == [
        "| mean ± sd over seeds | scratch | kd |",
        "|---|---|---|",
        "| seeds | 1, 2, 3 | 1, 2, 3 |",
        "| accuracy ↑ | 0.720 ± 0.020 | **0.760 ± 0.017** |",
        "| detectors | 12.0 ± 2.0 | 15.0 ± 2.0 |",
        "",
        "| difference to scratch, paired by seed | kd |",
        "|---|---|",
        "| accuracy ↑ | +0.040 ± 0.010 |",
        "| detectors | +3.0 ± 2.0 |",
    ]


def test_the_same_for_a_paper():
    assert latex(compare_arms(runs(), {"test/accuracy": "accuracy_% ↑"})).splitlines()[:8] == [
        r"\begin{tabular}{lcc}",
        r"\toprule",
        r"mean $\pm$ sd over seeds & scratch & kd \\",
        r"\midrule",
        r"seeds & 1, 2, 3 & 1, 2, 3 \\",
        r"accuracy\_\% $\uparrow$ & 0.720 $\pm$ 0.020 & \textbf{0.760 $\pm$ 0.017} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_seed_without_its_pair_takes_no_part_in_the_difference():
    kept = [run for run in runs() if (run.arm, run.seed) != ("scratch", "2")]
    assert "| detectors | +4.0 ± 1.4 |" in markdown(compare_arms(kept, NAMES)).splitlines()


def test_a_run_that_failed_has_no_part_in_a_mean():
    failed = Run("kd", "4", {"test/accuracy": 0.0}, "failed")
    lines = markdown(compare_arms([*runs(), failed], NAMES)).splitlines()
    assert "| seeds | 1, 2, 3 | 1, 2, 3; failed: 4 |" in lines
    assert "| accuracy ↑ | 0.720 ± 0.020 | **0.760 ± 0.017** |" in lines


def test_nothing_measured_is_no_table():
    assert compare_arms([Run("a", "1", {"other": 1.0})], NAMES) == []
    assert compare_arms([Run("a", "1", {"test/accuracy": 1.0}, "failed")], NAMES) == []
    assert compare_arms([], NAMES) == []


def test_many_arms_stand_below_each_other_and_a_search_has_no_differences():
    many = [Run(f"lr=0.12345{at}", "", {"objective": at / 10}) for at in range(7)]
    lines = markdown(compare_arms(many, {"objective": "val/accuracy ↑"})).splitlines()
    assert lines[0] == "| mean ± sd over seeds | seeds | val/accuracy ↑ |"
    assert lines[-1] == "| lr=0.1235 | one | **0.600** |"
    assert len(lines) == 9


@pytest.mark.parametrize(
    ("means", "heading", "expected"),
    [
        ([2.0, 2.5], "loss ↓", {0}),
        ([2.0, 2.5], "accuracy ↑", {1}),
        ([2.0, 2.5], "accuracy", set()),
        ([2.0, 2.0], "accuracy ↑", set()),
        ([2.0, 2.0, 1.0], "accuracy ↑", {0, 1}),
        ([2.0, math.nan], "accuracy ↑", set()),
        ([2.0, math.nan, 3.0], "accuracy ↑", {2}),
    ],
)
def test_the_best(means, heading, expected):
    assert best(means, heading) == expected


def test_a_value_that_is_not_a_number_is_not_a_missing_one():
    lost = [
        Run("a", "1", {"model/aes": math.nan}),
        Run("a", "2", {"model/aes": 1.5}),
        Run("b", "1", {"model/aes": 1.5}),
    ]
    assert "| AES | – | 1.500 |" in markdown(compare_arms(lost, NAMES))
    assert "| AES | 1.500 | 1.500 |" in markdown(compare_arms([Run("a", "1"), *lost[1:]], NAMES))


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6))
def test_more_is_better_is_less_is_better_of_the_opposite(means):
    assert best(means, "↑") == best([-value for value in means], "↓")


def test_labels_are_short_and_clear():
    assert labels_of(["kd, model.lr=0.0312345678", "a=12345678", "x=v1.2"]) == (
        "kd, lr=0.03123",
        "a=12345678",
        "x=v1.2",
    )
    assert labels_of(["a.lr=1, b.lr=2, c.d=3"]) == ("a.lr=1, b.lr=2, d=3",)


def test_spreads():
    assert spread([]) == "–"
    assert spread([math.nan, 1.0]) == "–"
    assert spread([0.5]) == "0.500"
    assert spread([100.0, 200.0]) == "150.0 ± 70.7"
    assert spread([1.0], signed=True) == "+1.0"


def test_a_bar_in_a_name_does_not_break_the_table():
    assert r"| a=x\|y |" in markdown(compare_arms([Run("a=x|y", "1", {"test/accuracy": 1.0})], NAMES))


def test_published_numbers_stand_below_as_they_were_printed_for_the_arms_that_are_there():
    others = {"a paper": {"accuracy, %": {"kd": 70.8, "at": 69.0}, "detectors": {"scratch": 275, "at": 287}}}
    (block,) = published(("scratch", "kd", "new"), others)
    assert block.heading == "a paper"
    assert block.cells.to_dict("index") == {
        "accuracy, %": {"scratch": "–", "kd": "70.8"},
        "detectors": {"scratch": "275", "kd": "–"},
    }
    assert published(("new",), others) == []
    assert "| detectors | 275 | – |" in markdown([block])
