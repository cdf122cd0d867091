"""Files and comparisons of dissections."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from introspect.core.errors import InputError
from introspect.dissection.comparison import compare_dissections
from introspect.dissection.concepts.broden import Broden
from introspect.dissection.engine import dissect_activations
from introspect.dissection.files import load, save
from introspect.dissection.result import Dissection, display
from tests.dissection.made import Made, dissection

RULES = ("quantile", "iou_threshold", "presence")


def made(best: list[tuple[int, float]], labels: int = 6) -> Dissection:
    """Units whose best label and IoU are given; labels 1 … 3 are objects, 4 … are parts."""
    concepts = Made([torch.zeros(1, 1, 1)], categories={"object": [1, 2, 3], "part": range(4, labels)})
    intersections = torch.zeros(len(best), labels, dtype=torch.int64)
    areas = torch.zeros(len(best), 2, dtype=torch.int64)
    for unit, (label, iou) in enumerate(best):
        intersections[unit, label] = round(iou * 1000)
        areas[unit, concepts.primary[label]] = 1000
    intersections[:, 0] = 0
    thresholds = torch.linspace(0, 1, len(best), dtype=torch.float64)
    return dissection(concepts, intersections, areas, layer="features.3", thresholds=thresholds)


def with_iou(value: float) -> tuple[int, float]:
    """Label 1 at an IoU of `value`, as `made` gives it: i / (1000 - i)."""
    return 1, value / (1 + value)


def test_detectors_from_the_threshold_on() -> None:
    found = made([(1, 0.5), (1, 0.2), (4, 0.3), (5, 0.01), (0, 0.0)])
    assert [(d.unit, d.label, d.category) for d in found.detectors()] == [
        (0, "object-1", "object"),
        (2, "part-4", "part"),
        (1, "object-1", "object"),
    ]
    assert found.detectors()[0].iou == pytest.approx(1.0)
    assert found.summary() == {"total": 3, "unique": 2, "object": 2, "part": 1}
    assert found.unique() == {"object-1": 2, "part-4": 1}
    assert found.summary(0.3)["total"] == 2
    score = float(found.best.iou[1])
    assert found.summary(score)["total"] == 3  # at the threshold is enough
    assert found.summary(np.nextafter(score, 1))["total"] == 2
    assert (int(found.best.label[4]), int(found.best.category[4]), float(found.best.iou[4])) == (0, 1, 0.0)


@pytest.mark.parametrize(("name", "shown"), [("red-c", "red"), ("street-s", "street"), ("t-shirt", "t-shirt")])
def test_display_names(name: str, shown: str) -> None:
    assert display(name) == shown


def test_files_hold_everything(tmp_path: Path) -> None:
    named = {"network": "net", "checkpoint": "net.pth", "preprocessing": "as it is", "seed": 7}
    found = replace(made([(1, 0.5), (4, 0.3), (0, 0.0)]), **named)
    save(found, tmp_path / "sub")
    again = load(tmp_path / "sub")
    for name in ("layer", "concepts", "images", "labels", "categories", "control", "seed", *RULES, *named):
        assert getattr(again, name) == getattr(found, name), name
    assert torch.equal(again.iou, found.iou)
    assert torch.equal(again.thresholds, found.thresholds)
    assert torch.equal(again.counts.areas, found.counts.areas)
    assert again.detectors() == found.detectors()
    assert json.loads((tmp_path / "sub/dissection.json").read_text())["detectors"]["total"] == 2
    assert pq.read_table(tmp_path / "sub/units.parquet")["label"].to_pylist() == ["object-1", "part-4", ""]
    with pytest.raises(InputError, match=r"dissection.json: no such file; a saved dissection has it"):
        load(tmp_path)
    (tmp_path / "sub/units.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"units.parquet: is not of a saved dissection"):
        load(tmp_path / "sub")


@pytest.mark.parametrize("run", ["resnet20_pool4_layer3_q0.05", "resnet18_seed0_layer4"])
def test_the_table_is_the_reference_s(run: str, shared: Path, tmp_path: Path) -> None:
    folder = shared / "golden/dissection"
    broden = Broden(folder / "broden")
    maps = np.load(folder / run.removesuffix("_q0.05") / "activations.npz")["activations"]
    limits = np.load(folder / run / "thresholds.npz")["thresholds"]
    found = dissect_activations(torch.from_numpy(maps), broden, thresholds=torch.from_numpy(limits))
    save(found, tmp_path)
    assert torch.equal(load(tmp_path).iou, found.iou)
    with (folder / run / "tally.csv").open(newline="") as file, (tmp_path / "tally.csv").open(newline="") as mine:
        expected, rows = list(csv.reader(file)), list(csv.reader(mine))
    assert rows[0] == expected[0]
    # The reference leaves the order of equal scores open.
    by_unit = {row[0]: row for row in rows[1:]}
    for row in expected[1:]:
        for name, ours, theirs in zip(rows[0], by_unit[row[0]], row, strict=True):
            if name.endswith(("score", "truth", "activation", "intersect", "iou")):
                assert float(ours) == pytest.approx(float(theirs), abs=1e-12), (row[0], name)
            else:
                assert ours == theirs, (row[0], name)
    scores = [float(row[3]) for row in rows[1:]]
    assert scores == sorted(scores, reverse=True)


def test_a_comparison_has_intervals() -> None:
    few = made([with_iou(0.5)] * 5 + [(0, 0.0)] * 45)
    many = made([with_iou(0.5)] * 30 + [(0, 0.0)] * 20)
    found = compare_dissections({"few": few, "many": many}, resamples=500)
    total = found.counts["few"]["total"]
    assert total.value == 5
    assert 0 <= total.low < 5 < total.high <= 12
    unique = found.counts["many"]["unique"]
    assert (unique.value, unique.low, unique.high) == (1, 1, 1)
    difference = found.differences["many"]["total"]
    assert difference.value == 25
    assert 15 < difference.low < 25 < difference.high < 35
    assert found == compare_dissections({"few": few, "many": many}, resamples=500)
    assert "| total | 5 [" in found.markdown()
    assert "| total | +25 [" in found.markdown()
    assert list(found.table().columns[0].cells) == list(found.counts)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Units drawn from a world in which 3 of 10 detect something."""
    generator = torch.Generator().manual_seed(0)
    held = 0
    for trial in range(60):
        detects = torch.rand(100, generator=generator) < 0.3
        layer = made([with_iou(0.5) if yes else (0, 0.0) for yes in detects.tolist()])
        low, high = compare_dissections({"a": layer}, resamples=200, seed=trial).counts["a"]["total"][1:]
        held += low <= 30 <= high
    assert held >= 52


def test_impossible_comparisons() -> None:
    with pytest.raises(InputError, match="at least one"):
        compare_dissections({})
    with pytest.raises(InputError, match="resamples: got 0"):
        compare_dissections({"a": made([(1, 0.5)])}, resamples=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"concepts": "other"}, r"different concepts cannot be compared \(a: made; b: other\)"),
        ({"images": 2}, r"different images cannot be compared \(a: 1; b: 2\)"),
        ({"presence": "original"}, r"different presence cannot be compared \(a: lite; b: original\)"),
        ({"quantile": 0.01}, r"different quantile cannot be compared \(a: 0.005; b: 0.01\)"),
        ({"categories": ("object", "scene")}, r"different categories .*\(a: part; b: scene\)"),
        (
            {"iou_threshold": 0.04},
            r"different IoU threshold cannot be compared \(a: 0.05; b: 0.04\); give one threshold for all",
        ),
    ],
)
def test_dissections_that_were_made_in_different_ways(change: dict, message: str) -> None:
    layer = made([(1, 0.5)])
    other = replace(layer, **change)
    with pytest.raises(InputError, match=message):
        compare_dissections({"a": layer, "b": other}, resamples=10)
    same = {"layer": "x", "network": "y", "control": "rotation", "seed": 9, "preprocessing": "z", "checkpoint": "c"}
    assert (
        compare_dissections({"a": layer, "b": replace(layer, **same)}, resamples=10).differences["b"]["total"].value
        == 0
    )


def test_labels_must_be_the_same() -> None:
    layer, other = made([(1, 0.5)]), made([(1, 0.5)], labels=7)
    with pytest.raises(InputError, match=r"different labels .*\(a: without these; b: part-6 \(part\)\)"):
        compare_dissections({"a": layer, "b": other}, resamples=10)


def test_one_threshold_makes_other_thresholds_comparable() -> None:
    layer = made([with_iou(0.5), with_iou(0.1)])
    found = compare_dissections({"a": layer, "b": replace(layer, iou_threshold=0.2)}, threshold=0.3, resamples=10)
    assert [counts["total"].value for counts in found.counts.values()] == [1, 1]


def test_several_of_a_kind_count_as_their_mean() -> None:
    three, six = made([with_iou(0.5)] * 3 + [(0, 0.0)] * 7), made([with_iou(0.5)] * 6 + [(0, 0.0)] * 4)
    found = compare_dissections({"layer": six, "turned": [three, three, six]}, resamples=400)
    mean = found.counts["turned"]["total"]
    assert mean.value == 4
    assert found.differences["turned"]["total"].value == -2
    alone = compare_dissections({"layer": three}, resamples=400).counts["layer"]["total"]
    assert mean.high - mean.low > alone.high - alone.low  # they also differ among each other
    assert "| total | 6 [" in found.markdown()
