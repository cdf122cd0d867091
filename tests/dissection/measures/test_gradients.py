"""Gradient maps: each number by hand, its bounds, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from introspect.app import dissect
from introspect.cli import check
from introspect.dissection.measures.gradients import GradientMaps, edges, gini, hoyer, magnitude, numbers
from tests.composing import compose_config
from tests.dissection.measures.made import SETTINGS, Sides, Squares, checkpoint, sides
from tests.distillation.made import Colours

pytest.importorskip("matplotlib", reason="an extra that only figures need")


def test_sparsity_by_hand() -> None:
    even, one = torch.full((1, 4, 4), 3.0), torch.zeros(1, 4, 4)
    one[0, 2, 1] = 5
    assert float(hoyer(even)) == pytest.approx(0)
    assert float(gini(even)) == pytest.approx(0)
    assert float(hoyer(one)) == pytest.approx(1)
    assert float(gini(one)) == pytest.approx(1 - 1 / 16)
    assert float(gini(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))) == pytest.approx(0.25)


def test_edges_and_magnitudes_by_hand() -> None:
    images = torch.zeros(1, 3, 4, 6)
    images[:, :, :, 3:] = 10
    assert edges(images)[0].tolist() == [pytest.approx([0, 0, 40, 40, 0, 0])] * 4
    assert magnitude(torch.tensor([[[[1.0]], [[-2.0]], [[3.0]]]])).tolist() == [[[6.0]]]


def test_mass_in_the_object_by_hand() -> None:
    maps = torch.tensor([[[3.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    truths = torch.tensor([[[0.9, 0.0], [0.0, 0.0]], [[0.4, 0.9], [0.0, 0.0]], [[0.9, 0.9], [0.0, 0.0]]])
    found = numbers(maps, torch.rand(3, 3, 2, 2), truths)
    assert found["mass_in_object"][:2].tolist() == [0.75, 0.5]
    assert found["concentration"][:2].tolist() == [3, 1]
    assert all(values[2].isnan() for values in found.values())
    nothing = numbers(maps[:1], torch.rand(1, 3, 2, 2), torch.zeros(1, 2, 2))
    assert nothing["mass_in_object"].isnan()
    assert nothing["hoyer"].isfinite()


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
@settings(max_examples=30)
def test_bounds_and_scale(seed: int, factor: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, 5, 5, generator=generator) ** 3 + 1e-3
    images, truths = torch.rand(2, 3, 5, 5, generator=generator), torch.rand(2, 5, 5, generator=generator).round()
    found, scaled = numbers(maps, images, truths), numbers(maps * factor, images, truths)
    for name, values in found.items():
        torch.testing.assert_close(scaled[name], values, equal_nan=True, atol=1e-5, rtol=1e-4)
        there = values[values.isfinite()]
        assert (there >= -1e-9).all()
        assert name == "concentration" or (there <= 1 + 1e-9).all()


def test_of_a_network_that_reads_the_squares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the gradient lies on the square that is there, half where the other one would be."""
    network = Sides()
    with torch.no_grad():
        network.weight *= 0.01  # less sure: else the loss has no gradient left in float32
    found = GradientMaps(
        network=sides(network), data=Squares(), folder=tmp_path, limit=None, batch_size=7, examples=3
    )()
    assert found["dissect/gradients/mass_in_object"] == pytest.approx(0.5, abs=1e-5)
    assert found["dissect/gradients/object_area"] == pytest.approx(12 / 64)
    assert found["dissect/gradients/flat"] == 0
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    assert "ours" in json.loads((tmp_path / "gradients.json").read_text())["source"]
    assert "ours, not the paper's" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "gradients_maps.png").is_file()


def test_flat_gradients_are_counted(tmp_path: Path) -> None:
    network = Sides()
    with torch.no_grad():
        network.weight.zero_()
    found = GradientMaps(network=sides(network), data=Squares(), folder=tmp_path)()
    assert found == {"dissect/gradients/flat": 1}


@pytest.mark.parametrize("data", ["shapeworld", "cells"])
def test_the_command(data: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 18 if data == "shapeworld" else 10)
    options = [f"data={data}", "data.sizes.test=30", "measure.limit=20"]
    cfg = compose_config("dissect", ["measure=gradients", f"ckpt_path={path}", *options, *SETTINGS], tmp_path)
    check(cfg)
    metrics = dissect(cfg)
    assert 0 < metrics["dissect/gradients/mass_in_object"] < 1
    assert (tmp_path / "run/gradients_maps.png").is_file()


def test_without_truths_there_is_no_mass(tmp_path: Path) -> None:
    class Grey(Sides):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) / 255

    found = GradientMaps(network=sides(Grey()), data=Colours(), folder=tmp_path)()
    assert set(found) == {
        *(
            f"dissect/gradients/{part}{name}"
            for part in ("", "deviation/")
            for name in ("edge_alignment", "hoyer", "gini")
        ),
        "dissect/gradients/flat",
    }
