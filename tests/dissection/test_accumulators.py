"""Views of a layer: examples, and controls."""

from __future__ import annotations

import pytest
import torch

from introspect.dissection.accumulators import derangement, top_activating
from introspect.dissection.engine import dissect
from introspect.dissection.quantiles import UpperQuantile
from tests.dissection.test_engine import Known, raw, world


def test_examples_are_those_of_a_full_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(23, 5, 3, 4, generator=generator)
    found = None
    for start in range(0, 23, 4):
        found = top_activating(found, maps[start : start + 4], start, 6)
    assert found is not None
    peaks = maps.flatten(2).amax(2)
    images = peaks.argsort(dim=0, descending=True)[:6].T
    assert torch.equal(found.images, images)
    assert torch.equal(found.peaks, peaks.sort(dim=0, descending=True).values[:6].T)
    for unit in range(5):
        assert torch.equal(found.maps[unit], maps[images[unit], unit])


def test_examples_are_kept_of_the_layer_only() -> None:
    found = dissect(
        Known(),
        ["units"],
        world(),
        quantile=0.5,
        preprocessing=raw,
        examples=2,
        batch_size=5,
        controls=["rotation", "labels"],
        progress=False,
    )
    kept = found["units"].examples
    assert kept is not None
    assert kept.images.shape == (4, 2)
    assert [result.examples is None for result in found.values()] == [False, True, True]


def test_permuted_labels_share_the_quantile_of_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    begin = UpperQuantile._begin
    monkeypatch.setattr(UpperQuantile, "_begin", lambda self, like: (made.append(self), begin(self, like)))
    options = {"quantile": 0.4, "preprocessing": raw, "controls": ["labels", "rotation"], "rotations": 2}
    found = dissect(Known(), ["units"], world(), progress=False, **options)
    assert len(made) == 3  # of the layer and its two rotations
    assert torch.equal(found["units"].thresholds, found["units:labels"].thresholds)


def test_each_rotation_is_another_one() -> None:
    options = {"quantile": 0.4, "preprocessing": raw, "controls": "rotation", "progress": False}
    found = dissect(Known(), "units", world(), rotations=3, seed=5, **options)
    assert list(found) == ["units", "units:rotation", "units:rotation2", "units:rotation3"]
    assert [(result.control, result.seed) for result in found.values()] == [
        ("", 5),
        ("rotation", 5),
        ("rotation", 6),
        ("rotation", 7),
    ]
    turned = [result.counts.intersections for result in found.values()][1:]
    assert not torch.equal(turned[0], turned[1])
    again = dissect(Known(), "units", world(), seed=6, **options)["units:rotation"]
    assert torch.equal(again.counts.intersections, found["units:rotation2"].counts.intersections)


def test_no_image_keeps_its_annotation() -> None:
    order = derangement(50, seed=3)
    assert sorted(order) == list(range(50))
    assert all(place != image for place, image in enumerate(order))
