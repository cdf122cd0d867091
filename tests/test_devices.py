"""Two processes do what one does: the same weights, and the same numbers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import devices
from tests.conftest import ROOT
from tests.tuning.tiny import tiny_folder


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the two processes have: how many there are changes what float32 sums come to, and so the teacher."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What two processes made, of all trainings."""
    folder = tmp_path_factory.mktemp("two")
    tiny_folder(folder / "tiny")
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.devices", str(folder)]
    started = [subprocess.Popen([*command, str(rank)], cwd=ROOT, env=os.environ | address) for rank in range(2)]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    return folder, torch.load(folder / "two.pt", weights_only=False)


@pytest.mark.parametrize("name", ["classify", "tune"])
def test_two_processes_do_what_one_does(two: tuple[Path, dict[str, Any]], tmp_path: Path, name: str) -> None:
    folder, both = two
    (tmp_path / "tiny").symlink_to(folder / "tiny")
    one = devices.TRAININGS[name](tmp_path / name, 1)
    torch.testing.assert_close(both[name]["weights"], one["weights"], rtol=0, atol=1e-5)
    found, expected = both[name]["metrics"], one["metrics"]
    timed = {"perf/tokens_per_second"}
    assert found.keys() - timed == expected.keys() - timed
    for metric in expected.keys() - timed:
        assert found[metric] == pytest.approx(expected[metric], rel=1e-4, abs=1e-6, nan_ok=True), metric
    if name == "classify":
        assert 0.4 < expected["test/accuracy"] < 1  # an image that is counted twice would tell
    exact = [metric for metric in expected if metric.endswith(("accuracy", "tokens", "tokens_seen", "/n", "_rate"))]
    assert {metric: found[metric] for metric in exact if "token_accuracy" not in metric} == {
        metric: expected[metric] for metric in exact if "token_accuracy" not in metric
    }


def test_similarities_are_those_of_all_images(two: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = two
    devices.TRAININGS["classify"](tmp_path / "classify", 1)
    both, one = (json.loads((at / "classify" / "class_similarity.json").read_text()) for at in (folder, tmp_path))
    assert both["student"] == [pytest.approx(row, abs=1e-4) for row in one["student"]]


def test_every_held_out_item_is_counted_once(two: tuple[Path, dict[str, Any]]) -> None:
    _, both = two
    assert both["tune"]["metrics"]["test/n"] == 5
    share = both["classify"]["metrics"]["test/accuracy"] * 25
    assert share == pytest.approx(round(share), abs=1e-5)


def test_processes_wait_for_the_first_and_hear_of_its_failure(two: tuple[Path, dict[str, Any]]) -> None:
    _, both = two
    told, gathered = {"rank": 0}, ["0/0", "1/0", "1/1"]
    assert both["meet"] == [
        (told, gathered, "ValueError: no disk"),
        (told, gathered, "RuntimeError: the first process failed: ValueError: no disk"),
    ]
