"""The commands beside dissect.py."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from introspect.core.errors import InputError
from introspect.dissection.__main__ import main
from introspect.dissection.concepts.broden import Broden
from introspect.dissection.files import save
from tests.dissection.test_result import made, with_iou


def saved(folder: Path) -> list[str]:
    """Two runs, with 1 and 3 detectors, and one with another quantile."""
    few, many = made([with_iou(0.5), (0, 0.0), (0, 0.0)]), made([with_iou(0.5), with_iou(0.5), with_iou(0.2)])
    runs = {"few": few, "many": many, "other": replace(many, quantile=0.1)}
    for name, dissection in runs.items():
        save(dissection, folder / name / "layer3")
    return [str(folder / name / "layer3") for name in runs]


def test_saved_dissections_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few, many, other = saved(tmp_path)
    main(["compare", few, many])
    shown = capsys.readouterr().out
    assert "| detectors | few | many |" in shown
    assert "| total | 1 [" in shown
    assert "| total | +2 [" in shown
    assert "concept detectors; in brackets" in " ".join(shown.split())
    main(["compare", few, many, "--threshold", "0.3"])
    assert "| total | +1 [" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"different quantile cannot be compared \(few: 0.005; other: 0.1\)"):
        main(["compare", few, other])
    with pytest.raises(InputError, match=r"dissection.json: no such file"):
        main(["compare", str(tmp_path)])
    with pytest.raises(InputError, match="a folder is named twice"):
        main(["compare", few, few])
    with pytest.raises(InputError, match="iou_threshold=2"):
        main(["compare", few, many, "--threshold", "2"])


def test_shapeworld_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", str(tmp_path / "world"), "--images", "5", "--side", "16"])
    assert len(Broden(tmp_path / "world")) == 5
    assert f"5 images: python dissect.py concepts=broden concepts.root={tmp_path / 'world'}" in capsys.readouterr().out
    with pytest.raises(InputError, match="is not empty"):
        main(["export", str(tmp_path / "world")])
    with pytest.raises(InputError, match=r"concepts.size=0: expected a whole number"):
        main(["export", str(tmp_path / "none"), "--images", "0"])


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "introspect.dissection", "compare", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
