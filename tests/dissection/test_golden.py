"""Dissections of real images by the published code, reproduced number by number."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from introspect.dissection.concepts.broden import Broden
from introspect.dissection.engine import dissect, dissect_activations
from introspect.dissection.quantiles import UpperQuantile
from introspect.dissection.result import Dissection
from tests.dissection.resnet20 import pretrained

RUNS = ["resnet20_pool4_layer3", "resnet20_pool4_layer3_q0.05", "resnet18_seed0_layer4"]


def quantile_of(run: str) -> float:
    return 0.05 if run.endswith("q0.05") else 0.005


@cache
def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def activations(shared: Path, run: str) -> Tensor:
    return torch.from_numpy(
        arrays(shared / f"golden/dissection/{run.removesuffix('_q0.05')}/activations.npz")["activations"]
    )


@pytest.fixture(scope="module")
def broden(shared: Path) -> Broden:
    return Broden(shared / "golden/dissection/broden")


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def given(run: str, shared: Path, broden: Broden) -> Dissection:
    """With the reference's own thresholds."""
    thresholds = arrays(shared / f"golden/dissection/{run}/thresholds.npz")["thresholds"]
    return dissect_activations(activations(shared, run), broden, thresholds=torch.from_numpy(thresholds))


def test_counts_are_equal_and_iou_too(run: str, shared: Path, given: Dissection) -> None:
    expected = arrays(shared / f"golden/dissection/{run}/iou.npz")
    counts = given.counts
    np.testing.assert_array_equal(counts.intersections, expected["tally_both"])
    np.testing.assert_array_equal(counts.areas, expected["tally_units"])
    np.testing.assert_array_equal(counts.category_areas[:, given.primary], expected["tally_units_cat"])
    np.testing.assert_array_equal(counts.label_pixels, expected["tally_labels"])
    np.testing.assert_array_equal(given.primary, expected["primary_categories"])
    np.testing.assert_allclose(given.iou, expected["iou"], rtol=0, atol=1e-6)
    assert [label.name for label in given.labels] == expected["label_names"].tolist()
    assert list(given.categories) == expected["categories"].tolist()


def test_best_labels_are_the_same(run: str, shared: Path, given: Dissection) -> None:
    expected = arrays(shared / f"golden/dissection/{run}/iou.npz")
    np.testing.assert_array_equal(given.best.labels, expected["best_label_per_category"])
    np.testing.assert_allclose(given.best.ious, expected["best_iou_per_category"], rtol=0, atol=1e-6)
    with (shared / f"golden/dissection/{run}/tally.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == given.units
    for row in rows:
        unit = int(row["unit"]) - 1
        assert row["label"] == given.labels[given.best.label[unit]].name
        assert row["category"] == given.categories[given.best.category[unit]]
        assert float(row["score"]) == pytest.approx(float(given.best.iou[unit]), abs=1e-6)


@pytest.mark.parametrize("threshold", [0.04, 0.05])
def test_detectors_are_the_same(run: str, threshold: float, shared: Path, given: Dissection) -> None:
    counts = json.loads((shared / f"golden/dissection/{run}/summary.json").read_text())["counts"][f"iou>{threshold}"]
    assert given.summary(threshold) == {
        "total": counts["n_detectors"],
        "unique": counts["n_unique_concepts"],
        **counts["detectors_by_category"],
    }
    assert given.unique(threshold) == counts["units_per_concept"]


def test_our_thresholds_lie_where_the_reference_s_may(run: str, shared: Path) -> None:
    expected = arrays(shared / f"golden/dissection/{run}/thresholds.npz")
    maps = activations(shared, run)
    ours = thresholds(maps.transpose(0, 1).flatten(1), quantile_of(run), piece=16 * maps[0, 0].numel())
    np.testing.assert_allclose(ours, expected["numpy_percentile_at_1_minus_q"], rtol=1e-6)
    assert (expected["tie_variants"].min(1) <= ours).all()
    assert (ours <= expected["tie_variants"].max(1)).all()


def test_thresholds_of_many_values_agree_by_rank(shared: Path) -> None:
    expected = arrays(shared / "golden/quantile_stream.npz")
    samples = torch.from_numpy(expected["samples"]).float().T.contiguous()
    ours = thresholds(samples, 0.005, piece=4096)
    for unit, (mine, theirs) in enumerate(zip(ours, expected["thresholds"], strict=True)):
        values = np.sort(samples[unit].numpy())
        low, high = (np.searchsorted(values, theirs, side) / len(values) for side in ("left", "right"))
        mine_low, mine_high = (np.searchsorted(values, mine, side) / len(values) for side in ("left", "right"))
        assert mine_low <= high + 1.1e-4
        assert low <= mine_high + 1.1e-4


def thresholds(values: Tensor, quantile: float, piece: int) -> np.ndarray:
    stream = UpperQuantile(quantile, values.shape[1])
    for part in values.split(piece, dim=1):
        stream.add(part)
    return stream.thresholds().numpy()


def test_images_without_pixel_labels(shared: Path) -> None:
    edge = arrays(shared / "golden/dissection_edge/edge.npz")
    broden = Broden(shared / "golden/dissection_edge/broden")
    maps, limits = torch.from_numpy(edge["activations"]), torch.from_numpy(edge["thresholds"])
    found = dissect_activations(maps, broden, thresholds=limits)
    np.testing.assert_array_equal(found.counts.intersections, edge["tally_both"])
    np.testing.assert_array_equal(found.counts.areas, edge["tally_units"])
    np.testing.assert_array_equal(found.counts.label_pixels, edge["tally_labels"])
    np.testing.assert_array_equal(found.counts.category_areas[:, found.primary], edge["tally_units_cat_corrected"])
    np.testing.assert_allclose(found.iou, edge["iou_corrected"], rtol=0, atol=1e-6)
    assert np.abs(found.iou.numpy() - edge["iou_official"]).max() > 0.08


@pytest.mark.parametrize("run", RUNS, indirect=True)
def test_from_the_images(run: str, shared: Path, broden: Broden) -> None:
    """Thresholds are our own and another CPU and JPEG decoder made the activations: close, not equal."""
    network, layer = network_of(run, shared)
    found = dissect(network, [layer], broden, quantile=quantile_of(run), progress=False, batch_size=16)[layer]
    ours = dissect_activations(activations(shared, run), broden, quantile=quantile_of(run))
    np.testing.assert_allclose(found.thresholds, ours.thresholds, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found.counts.label_pixels, ours.counts.label_pixels)
    # Up to 1 in 100 active pixels lies so near the threshold that rounding decides.
    moved = (found.counts.intersections - ours.counts.intersections).abs().sum()
    assert moved <= 0.01 * ours.counts.intersections.sum()
    np.testing.assert_allclose(found.iou, ours.iou, rtol=0, atol=0.01)
    expected = json.loads((shared / f"golden/dissection/{run}/summary.json").read_text())["counts"]["iou>0.05"]
    assert found.summary()["total"] == pytest.approx(expected["n_detectors"], abs=max(1, 0.1 * expected["n_detectors"]))


def network_of(run: str, shared: Path) -> tuple[nn.Module, str]:
    if run.startswith("resnet20"):
        return pretrained(shared), "layer3"
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18(weights=None), "layer4"
