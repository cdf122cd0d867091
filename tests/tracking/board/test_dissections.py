"""What the board reads of dissections."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from introspect.core.errors import InputError
from introspect.dissection.files import save
from introspect.tracking.board.dissections import read_layers
from tests.tracking.board.made import dissection, image_run


def test_a_layer_beside_its_controls(tmp_path: Path) -> None:
    folder = image_run(tmp_path / "run")
    [layer] = read_layers(folder)
    assert (layer.name, layer.data, layer.units, layer.threshold) == ("layer3", "made", 4, 0.05)
    assert (layer.found.total, layer.found.unique, layer.found.by_category) == (2, 2, {"object": 2, "color": 0})
    # Two units without any overlap, IoU a hair below 0.5 (as the reference divides), and 1.
    assert {bin: units for bin, units in enumerate(layer.found.units) if units} == {0: 2, 49: 1, 99: 1}
    assert layer.concepts == {"zebra": 1, "oak": 1}
    assert layer.report == folder / "dissection/layer3/report.html"
    assert {name: each.total for name, each in layer.controls.items()} == {"rotation": 2}


def test_the_folder_of_dissect_py_and_no_report(tmp_path: Path) -> None:
    for name in ("layer4", "layer3"):
        save(dissection(), tmp_path / name)
    found = read_layers(tmp_path)
    assert [(layer.report, layer.controls) for layer in found] == [(None, {}), (None, {})]
    assert read_layers(tmp_path / "nowhere") == []


@pytest.mark.parametrize("key", ["layer", "units", "detectors", "categories"])
def test_a_missing_entry_is_named(tmp_path: Path, key: str) -> None:
    save(dissection(), tmp_path / "layer3")
    path = tmp_path / "layer3/dissection.json"
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"dissection\.json: is not of a saved dissection: has no '{key}'"):
        read_layers(tmp_path)


@pytest.mark.parametrize("name", ["dissection.json", "units.parquet"])
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    save(dissection(), tmp_path / "layer3")
    (tmp_path / "layer3" / name).write_text("[1")
    with pytest.raises(InputError, match=rf"{name}: is not of a saved dissection"):
        read_layers(tmp_path)
