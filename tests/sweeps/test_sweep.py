"""A sweep through Hydra itself, in which a run fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from introspect import __version__
from tests.composing import ROOT
from tests.tracking.reading import Offline

SETTINGS = [
    "experiment=scratch",
    "data.sizes={train: 40, validation: 10, test: 10}",
    "data.side=16",
    "concepts.size=10",
    "concepts.side=16",
    "callbacks.concept_detectors.every_n_epochs=0",
    "trainer.max_epochs=1",
    "logger=wandb",
    "extras.print_config=false",
]


def test_the_other_runs_are_made_and_in_the_table(tmp_path: Path) -> None:
    swept = ["seed=1", "callbacks.concept_detectors.layer=layer9,layer3", f"hydra.sweep.dir={tmp_path}/sweep"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "-m", *SETTINGS, *swept],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PROJECT_ROOT": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "error: layer=layer9: the network has no such layer; did you mean layer3" in done.stderr
    assert "Traceback" not in done.stderr
    finished = {path.parent.name for path in (tmp_path / "sweep").glob("*/metrics.json")}
    assert finished == {"1"}
    assert "1 of 2 jobs did not finish: 0 (layer=layer9" in done.stderr
    assert "| seeds | failed: 1 | 1 |" in (tmp_path / "sweep/study.md").read_text()
    [run] = (tmp_path / "sweep/1/wandb").glob("offline-run-*")
    kept = Offline(run)
    assert (kept.run.run_group, kept.run.job_type) == ("concept_detectors sweep", "train")
    assert list(kept.run.tags) == ["scratch"]
    assert kept.config["callbacks/concept_detectors/layer"] == "layer3"
    assert kept.config["code/introspect"] == __version__
    measured = json.loads((tmp_path / "sweep/1/metrics.json").read_text())
    assert kept.summary["test/accuracy"] == pytest.approx(measured["test/accuracy"])
    assert kept.summary["dissect/detectors/total"]["last"] == measured["dissect/detectors/total"]
    assert sum(kept.summary["dissect/histogram/iou/values"]) == 64  # units
    assert kept.summary["dissect/units/ncols"] > 4  # with images
    assert {"dissection", "checkpoint"} <= {each.type for each in kept.of("artifact")}
    [study] = (tmp_path / "sweep/wandb").glob("offline-run-*")
    assert Offline(study).run.job_type == "study"
