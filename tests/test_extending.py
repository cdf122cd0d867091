"""Every file and every command of docs/extending.md, as a reader would use them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.composing import ROOT

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [block.replace("\\\n", " ") for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    for name, text in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def call(lab: Path, command: str) -> Path:
    """Run a command of the page beside `my_lab`; the folder of its run."""
    setting, python, script, *words = shlex.split(command)
    assert (setting, python) == ("PYTHONPATH=my_lab", "python")
    run = lab / "runs" / str(len(list(lab.glob("runs/*"))))
    quiet = ["logger=csv", "extras.print_config=false", f"hydra.run.dir={run}", f"paths.root_dir={lab}"]
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *words, *quiet],
        cwd=lab,
        env={**os.environ, "PYTHONPATH": "my_lab"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return run


def test_the_page_has_all_its_parts() -> None:
    assert len(FILES) == 11
    assert len(COMMANDS) == 3


def test_a_benchmark_and_a_recipe(lab: Path) -> None:
    traces = pq.read_table(call(lab, COMMANDS[0]) / "traces" / "traces.parquet").to_pylist()
    assert [trace["example_id"] for trace in traces] == ["m1", "m2"]
    assert "Jan Vos was born in Leyden.\n</think>" in traces[0]["target"]


def test_a_teacher(lab: Path) -> None:
    run = call(lab, COMMANDS[1])
    traces = pq.read_table(run / "traces" / "traces.parquet").to_pylist()
    assert {trace["example_id"] for trace in traces} == {"m1", "m2"}
    assert "The cards lead to Delft." in traces[-1]["target"]
    assert json.loads((run / "traces" / "manifest.json").read_text())["benchmark"] == "museum"


def test_an_objective_and_a_set_of_concepts(lab: Path) -> None:
    run = call(lab, COMMANDS[2])
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 <= metrics["dissect/detectors/unique"] <= 2
    assert set(metrics) >= {"test/accuracy", "dissect/detectors/part"}
