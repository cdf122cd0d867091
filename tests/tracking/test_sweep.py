"""A sweep through Hydra itself, in which a run fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.composing import ROOT

SETTINGS = [
    "experiment=scratch",
    "data.sizes={train: 40, validation: 10, test: 10}",
    "data.side=16",
    "callbacks.concept_detectors.concepts.size=10",
    "callbacks.concept_detectors.concepts.side=16",
    "callbacks.concept_detectors.every_n_epochs=0",
    "trainer.max_epochs=1",
    "logger=none",
    "extras.print_config=false",
]


def test_the_other_runs_are_made_and_in_the_table(tmp_path: Path) -> None:
    swept = ["seed=1,2", "callbacks.concept_detectors.layer=layer9,layer3", f"hydra.sweep.dir={tmp_path}/sweep"]
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
    assert finished == {"1", "3"}
    assert "| seeds | 1, 2 |" in (tmp_path / "sweep/study.md").read_text()
