"""The five-band score of networks, as the command gives it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from introspect.app import dissect
from introspect.cli import check
from introspect.core.errors import InputError
from introspect.dissection.measures.bands import Sweep, hard, scores
from introspect.dissection.measures.five_band import FiveBand
from introspect.dissection.measures.images import Reader
from introspect.vision.datasets.shapeworld import ShapeworldImages
from introspect.vision.shapeworld.drawing import Shapeworld
from tests.composing import compose_config
from tests.dissection.measures.made import SETTINGS, Sides, Squares, checkpoint, plain, sides, without
from tests.distillation.made import Colours

pytest.importorskip("captum", reason="an extra that only attributions need")
pytest.importorskip("matplotlib", reason="an extra that only figures need")


def test_of_a_network_that_reads_the_relevant_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its gradient is the square itself: every pixel right, and nothing raised in vain."""
    options = {"limit": None, "batch_size": 7, "examples": 3, "checkpoint": "hand.ckpt"}
    found = FiveBand(network=sides(), data=Squares(), folder=tmp_path, methods="saliency", **options)()
    place = "dissect/five_band"
    expected = {"accuracy": 1, "precision": 1, "recall": 1, "false_positive_rate": 0}
    for score, value in expected.items():
        assert found[f"{place}/saliency/{score}"] == pytest.approx(value, abs=1e-6)
        assert found[f"{place}/saliency/soft/{score}"] == pytest.approx(value, abs=1e-6)
    assert found[f"{place}/network_accuracy"] == 1
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    content = json.loads((tmp_path / "five_band.json").read_text())
    assert content["settings"]["network"] == "sides"
    assert content["settings"]["checkpoint"] == "hand.ckpt"
    assert content["settings"]["images"] == 40
    assert "Ours" in content["source"]
    assert "saliency" in capsys.readouterr().out
    assert (tmp_path / "five_band_examples.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "five_band_sweep.png").is_file()


def test_means_over_batches_are_means_over_images(tmp_path: Path) -> None:
    """Whatever the batches are, and by class; of inputs times gradients, which are neither right nor wrong."""
    data, network = Squares(11), Sides()
    sweep = Sweep(steps=3, delta=0.1).settings()
    images, classes, truth = data.explained("test").tensors
    weight = network.weight.detach()
    target = network(images.float()).argmax(1)
    expected = scores(images / 255 * weight[target], truth, torch.cat([hard(), sweep]))
    for name, size in (("a", 3), ("b", 64)):
        options = {"methods": "input_x_gradient", "limit": None, "batch_size": size, "steps": 3, "delta": 0.1}
        found = FiveBand(network=sides(network), data=data, folder=tmp_path / name, figure=False, **options)()
        for score, values in expected._asdict().items():
            key = f"dissect/five_band/input_x_gradient/{score}"
            assert found[key] == pytest.approx(float(values[:, 0].mean()), abs=1e-6)
            table = pq.read_table(tmp_path / name / "five_band_sweep.parquet").to_pydict()
            assert table[score] == pytest.approx(values[:, 1:].mean(0).tolist(), abs=1e-6)
            by_class = pq.read_table(tmp_path / name / "five_band_classes.parquet").to_pydict()
            assert by_class[score][1] == pytest.approx(float(values[classes == 1, 0].mean()), abs=1e-6)
            assert by_class["images"] == [6, 5]
        assert not list((tmp_path / name).glob("*.png"))


def test_the_images_are_drawn_at_random_and_the_same_for_a_seed() -> None:
    chosen = [torch.cat([b.classes for b in Reader(Squares(200), limit=60, seed=seed)]) for seed in (1, 1, 2)]
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])
    assert 15 < chosen[0].sum() < 45


def test_truth_of_shapeworld_is_the_object() -> None:
    """Where a part lies, there is an object of the class."""
    data = ShapeworldImages(sizes={"train": 1, "validation": 1, "test": 20})
    world = Shapeworld(split="test", size=20)
    [batch] = Reader(data, limit=None, truths=True)
    assert torch.equal(batch.images, world.images)
    assert torch.equal(batch.truths > 0, world.drawn.pixels[:, 3] > 0)
    assert batch.truths.unique().tolist() == pytest.approx([0, 0.9])
    assert torch.equal(data.explained("test")[-1][2], batch.truths[-1])


@pytest.mark.parametrize(("name", "classes"), [("shapeworld", 18), ("cells", 10)])
def test_the_command(name: str, classes: int, tmp_path: Path) -> None:
    options = [f"data={name}", "data.sizes.test=30", "measure.limit=12", "measure.integration_steps=3"]
    given = ["measure=five_band", f"ckpt_path={checkpoint(tmp_path, classes)}", *options]
    cfg = compose_config("dissect", [*given, *SETTINGS, "measure.steps=4"], tmp_path)
    check(cfg)
    metrics = dissect(cfg)
    assert 0 < metrics["dissect/five_band/guided_grad_cam/soft/accuracy"] < 1
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == metrics
    assert (tmp_path / "run/five_band_examples.png").is_file()
    [logged] = tmp_path.glob("run/**/metrics.csv")
    assert "dissect/five_band/deep_lift/false_positive_rate" in logged.read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (Colours(), {}, "data=colours: nothing says which pixels matter; data=cells and data=shapeworld do"),
        (Squares(), {"split": "val"}, "split=val: expected train, validation, test"),
        (Squares(), {"limit": 0}, "limit=0: expected a whole number from 1"),
        (Squares(), {"methods": "lime"}, "methods=lime: expected some of"),
        (Squares(), {"preprocessing": "vgg"}, "preprocessing=vgg: expected"),
        (Squares(), {"steps": 100}, "delta=0.005, steps=100"),
        (Squares(0), {}, "data=squares: there are no test images"),
    ],
)
def test_impossible_options(data: object, options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        FiveBand(network=sides(), data=data, folder=tmp_path, **options)()


def test_a_network_of_other_classes(tmp_path: Path) -> None:
    data = Squares()
    data.classes = 3
    with pytest.raises(InputError, match=r"data=squares has 3 classes, the network puts out \[2\]"):
        FiveBand(network=sides(), data=data, folder=tmp_path, methods="saliency", preprocessing=plain)()


def test_matplotlib_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with without("matplotlib", monkeypatch):
        FiveBand(network=sides(), data=Squares(), folder=tmp_path, methods="saliency").check()
