"""What dissect.py does, as the command does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from introspect.app import dissect
from introspect.cli import check
from introspect.dissection.measure import measure
from introspect.dissection.networks import load_weights, torchvision_network
from introspect.errors import InputError
from tests.composing import compose_config
from tests.dissection.concepts.test_broden import write_broden
from tests.dissection.test_engine import Known, raw, world

SETTINGS = ["extras.print_config=false", "logger=none", "concepts=broden", "network=torchvision"]


def test_files_metrics_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = Known()
    network.preprocess = raw
    logger = CSVLogger(tmp_path / "csv")
    metrics = measure(
        network=network, layer="units", concepts=world(), folder=tmp_path, quantile=0.25, loggers=[logger], examples=2
    )
    assert metrics["dissect/detectors/total"] == 4
    assert metrics["dissect/detectors/part"] == 2
    assert metrics["dissect/control/rotation/detectors/total"] <= 4
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    for name in ("report.html", "tally.csv", "units.parquet", "labels/tally.csv", "rotation/units.parquet"):
        assert (tmp_path / "units" / name).is_file()
    assert "4 of 4 units detect 4 concepts" in capsys.readouterr().out
    assert "| total | 4 [" in (tmp_path / "comparison.md").read_text()
    assert "dissect/detectors/total" in Path(logger.experiment.metrics_file_path).read_text()


def test_several_layers_are_kept_apart(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    metrics = measure(
        network=network,
        layer=["0", "1"],
        concepts=world(),
        folder=tmp_path,
        preprocessing="imagenet",
        controls=(),
        report=False,
        table_rows=0,
    )
    assert {name for name in metrics if name.endswith("total")} == {
        "dissect/0/detectors/total",
        "dissect/1/detectors/total",
    }
    assert (tmp_path / "1/tally.csv").is_file()


def test_a_network_must_say_what_it_takes_in(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="preprocessing=model: the network does not say how"):
        measure(network=Known(), layer="units", concepts=world(), folder=tmp_path)


def test_the_command(tmp_path: Path) -> None:
    root = write_broden(tmp_path / "broden")
    options = [f"concepts.root={root}", "network.weights=random", "layer=[layer3,layer4]", "dissection.device=cpu"]
    cfg = compose_config("dissect", [*SETTINGS, *options], tmp_path)
    metrics = dissect(cfg)
    assert metrics["dissect/layer4/detectors/total"] >= 0
    assert (tmp_path / "run/layer4/report.html").is_file()


@pytest.mark.parametrize("network", ["student", "torchvision"])
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
    with pytest.raises(InputError, match=r"network.weights=BEST: resnet18 has no such weights"):
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
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "other")
    with pytest.raises(
        InputError, match=r"the weights are not those of the network: weight is \[2, 4\], expected \[2, 3\]"
    ):
        load_weights(target, tmp_path / "other")
    torch.save({"epoch": 3}, tmp_path / "none")
    with pytest.raises(InputError, match="holds no weights"):
        load_weights(target, tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="can not be loaded safely"):
        load_weights(target, tmp_path / "text")
