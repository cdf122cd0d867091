"""Concept detectors as the command dissect.py reports them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file
from torch import nn

from introspect.app import dissect
from introspect.cli import check
from introspect.core.errors import InputError
from introspect.dissection.files import load
from introspect.dissection.measures.detectors import Detectors
from introspect.vision.backbones import Backbone
from introspect.vision.networks import (
    Network,
    backbone_network,
    load_weights,
    torchvision_network,
    weights_preprocessing,
)
from introspect.vision.preprocessing import Normalize
from tests.composing import compose_config
from tests.dissection.concepts.test_broden import write_broden
from tests.dissection.resnet20 import pretrained
from tests.dissection.test_engine import Known, raw, world


def known(**options: object) -> Detectors:
    network = Network(Known(), "Known", preprocess=raw)
    return Detectors(**{"network": network, "layer": "units", "concepts": world(), "folder": "unused", **options})


SETTINGS = ["extras.print_config=false", "logger=none", "concepts=broden", "network=torchvision"]


def test_files_metrics_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = Network(Known(), "Known", preprocess=raw)
    logger = CSVLogger(tmp_path / "csv")
    options = {"quantile": 0.25, "examples": 2, "checkpoint": "known.ckpt", "rotations": 2, "seed": 4}
    metrics = Detectors(network=network, layer="units", concepts=world(), folder=tmp_path, **options)([logger])
    assert metrics["dissect/detectors/total"] == 4
    assert metrics["dissect/detectors/part"] == 2
    assert metrics["dissect/control/rotation/detectors/total"] <= 4
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    for name in ("report.html", "tally.csv", "labels/tally.csv", "rotation/units.parquet", "rotation2/tally.csv"):
        assert (tmp_path / "units" / name).is_file()
    assert "4 of 4 units detect 4 concepts" in capsys.readouterr().out
    assert "| total | 4 [" in (tmp_path / "comparison.md").read_text()
    assert logger.experiment.metrics == []  # the caller logs, at the step that it is at
    content = json.loads((tmp_path / "units/rotation2/dissection.json").read_text())
    expected = {"network": "Known", "checkpoint": "known.ckpt", "layer": "units", "concepts": "made", "images": 12}
    expected |= {"preprocessing": "raw", "presence": "lite", "quantile": 0.25, "iou_threshold": 0.05}
    expected |= {"control": "rotation", "seed": 5}
    assert {name: content[name] for name in expected} == expected
    text = (tmp_path / "units/report.html").read_text()
    for name, value in (("network", "Known"), ("checkpoint", "known.ckpt"), ("control", "none"), ("seed", "4")):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in text


def test_rotations_are_reported_as_mean_and_deviation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Conv2d(3, 12, 5)), "one")
    options = {"preprocessing": "imagenet", "quantile": 0.05, "iou_threshold": 0.12, "report": False, "table_rows": 0}
    metrics = Detectors(
        network=network, layer="0", concepts=world(), folder=tmp_path, rotations=3, controls="rotation", **options
    )()
    totals = [load(tmp_path / f"0/rotation{number}").summary()["total"] for number in ("", 2, 3)]
    assert len(set(totals)) > 1
    assert metrics["dissect/control/rotation/detectors/total"] == pytest.approx(np.mean(totals))
    assert metrics["dissect/control/rotation/deviation/total"] == pytest.approx(np.std(totals, ddof=1))
    assert "dissect/deviation/total" not in metrics
    assert "| detectors | 0 | 0:rotation |" in (tmp_path / "comparison.md").read_text()


def test_several_layers_are_kept_apart(tmp_path: Path) -> None:
    metrics = Detectors(
        network=Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)), "two"),
        layer=["0", "1"],
        concepts=world(),
        folder=tmp_path,
        preprocessing="imagenet",
        controls=(),
        report=False,
        table_rows=0,
    )()
    assert {name for name in metrics if name.endswith("total")} == {
        "dissect/0/detectors/total",
        "dissect/1/detectors/total",
    }
    assert (tmp_path / "1/tally.csv").is_file()


def test_a_network_must_say_what_it_takes_in(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="preprocessing=model: the network does not say how"):
        Detectors(network=Network(Known(), "Known"), layer="units", concepts=world(), folder=tmp_path).check()


def test_the_command(tmp_path: Path) -> None:
    root = write_broden(tmp_path / "broden")
    options = [f"concepts.root={root}", "network.weights=random", "layer=[layer3,layer4]", "dissection.device=cpu"]
    cfg = compose_config("dissect", [*SETTINGS, *options, "logger=csv"], tmp_path)
    metrics = dissect(cfg)
    assert metrics["dissect/layer4/detectors/total"] >= 0
    [logged] = tmp_path.glob("run/**/metrics.csv")
    rows = list(csv.DictReader(logged.open()))
    assert len(rows) == 1
    assert float(rows[0]["dissect/layer4/detectors/total"]) == metrics["dissect/layer4/detectors/total"]
    assert (tmp_path / "data/cache/dissection").is_dir()
    assert (tmp_path / "run/layer4/report.html").is_file()


def test_published_weights_of_a_backbone(shared: Path, tmp_path: Path) -> None:
    weights = shared / "data/resnet_cifar10/resnet20-12fca82f.th"
    root = shared / "golden/dissection/broden"
    options = ["concepts.limit=4", "layer=layer3", f"ckpt_path={weights}", "dissection.device=cpu"]
    settings = [*SETTINGS[:-1], "network=backbone", f"concepts.root={root}", *options]
    dissect(compose_config("dissect", settings, tmp_path))
    content = json.loads((tmp_path / "run/layer3/dissection.json").read_text())
    assert (content["network"], content["checkpoint"], content["units"]) == ("cifar_resnet20", str(weights), 64)
    # The same network, written down apart from ours, puts out the same.
    theirs = pretrained(shared)
    ours = backbone_network(backbone=Backbone("cifar_resnet20", 10), ckpt_path=weights)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.functional.avg_pool2d", lambda x, side: x)
        torch.testing.assert_close(ours.module(images), theirs.eval()(images))


@pytest.mark.parametrize("option", [{"device": "tpu9"}, {"device": "cuda:99"}, {"device": "gpu"}])
def test_a_device_that_is_not_there(option: dict) -> None:
    with pytest.raises(InputError, match=rf"device={option['device']}: "):
        known(**option).check()


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        ("unit", {}, "layer=unit: the network has no such layer; did you mean units"),
        ("units", {"quantile": 5}, "quantile=5: expected a fraction"),
        ("units", {"controls": "rotated"}, "controls=rotated: expected rotation or labels"),
        ("units", {"examples": -1}, "examples=-1: expected a whole number from 0"),
        ("units", {"device": "gpu"}, "device=gpu: expected auto"),
        ("units", {"table_rows": -1}, "table_rows=-1: expected a whole number from 0"),
    ],
)
def test_options_can_be_checked_before_a_long_run(layer: str, options: dict, message: str) -> None:
    known(quantile=0.01, controls=["rotation"], report=False).check()
    with pytest.raises(InputError, match=message):
        known(layer=layer, **options).check()


@pytest.mark.parametrize(
    ("name", "weights", "mean", "deviation"),
    [
        ("resnet18", "DEFAULT", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ("resnet18", None, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ("vgg16", "IMAGENET1K_FEATURES", [122.999, 117.001, 104.0], [1, 1, 1]),
        ("efficientnet_v2_l", "DEFAULT", [127.5] * 3, [127.5] * 3),
    ],
)
def test_preprocessing_is_that_of_the_weights(
    name: str, weights: str | None, mean: list[float], deviation: list[float]
) -> None:
    prepare = weights_preprocessing(name, weights)
    assert isinstance(prepare, Normalize)
    assert prepare.mean.flatten().tolist() == pytest.approx(mean, abs=0.01)
    assert prepare.deviation.flatten().tolist() == pytest.approx(deviation, abs=0.01)


@pytest.mark.parametrize("network", ["student", "torchvision", "backbone"])
def test_the_command_wants_weights(network: str, tmp_path: Path) -> None:
    cfg = compose_config("dissect", [*SETTINGS, f"network={network}", "layer=layer4"], tmp_path)
    with pytest.raises(
        InputError, match="ckpt_path is required: the weights of the network; or give network=torchvision"
    ):
        check(cfg)


def test_weights_are_never_random_in_silence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"which weights\? give either ckpt_path=… or network.weights=…"):
        torchvision_network(name="resnet18")
    with pytest.raises(InputError, match=r"ckpt_path=.*nothing.pth: no such file"):
        torchvision_network(name="resnet18", ckpt_path=tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="torchvision has no such classifier; close are resnet18"):
        torchvision_network(name="resnet81", weights="random")
    with pytest.raises(InputError, match="weights=BEST: resnet18 has no such weights"):
        torchvision_network(name="resnet18", weights="BEST")


def test_weights_of_a_file(tmp_path: Path) -> None:
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    forms = {
        "plain": source.state_dict(),
        "lightning": {"state_dict": {f"model.{k}": v for k, v in source.state_dict().items()}, "epoch": 1},
        "parallel": {"model": {f"module.{k}": v for k, v in source.state_dict().items()}},
    }
    for name, content in forms.items():
        torch.save(content, tmp_path / name)
        nn.init.zeros_(target.weight)
        load_weights(target, tmp_path / name)
        assert torch.equal(target.weight, source.weight)
    nn.init.zeros_(target.weight)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    load_weights(target, tmp_path / "model.safetensors")
    assert torch.equal(target.weight, source.weight)
    (tmp_path / "bad.safetensors").write_text("hello")
    with pytest.raises(InputError, match=r"bad\.safetensors cannot be loaded safely"):
        load_weights(target, tmp_path / "bad.safetensors")
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "other")
    with pytest.raises(InputError, match=r"the weights are not those of the network: .*weight: .*\[2, 4\]\).*\[2, 3\]"):
        load_weights(target, tmp_path / "other")
    torch.save({"epoch": 3}, tmp_path / "none")
    with pytest.raises(InputError, match="holds no weights"):
        load_weights(target, tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="cannot be loaded safely"):
        load_weights(target, tmp_path / "text")
