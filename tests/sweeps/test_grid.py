"""Grids through Hydra itself, with a task of a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from introspect.core.errors import InputError
from introspect.sweeps.jobs import read_record
from tests.sweeps.sweeping import sweep


class Task:
    """Measures `a`, and fails where it is told to."""

    def __init__(self, *broken: int) -> None:
        self.broken = set(broken)
        self.made: list[tuple[int, int]] = []

    def __call__(self, cfg: DictConfig) -> float:
        self.made.append((cfg.a, cfg.seed))
        if cfg.a in self.broken:
            raise ValueError(f"{cfg.a} is\nbroken")
        folder = Path(HydraConfig.get().runtime.output_dir)
        (folder / "metrics.json").write_text(json.dumps({"test/accuracy": cfg.a / 10 + cfg.seed / 100}))
        return 0.5


def test_a_job_fails_and_the_others_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = Task(2)
    with pytest.raises(
        InputError, match=r"1 of 3 jobs did not finish: 1 \(ValueError: 2 is broken\); the same command"
    ):
        sweep(tmp_path, ["a=1,2,3", "seed=1"], task)
    assert task.made == [(1, 1), (2, 1), (3, 1)]
    assert "0.310" in capsys.readouterr().out  # the table, in spite of it
    assert "| seeds | 1 | failed: 1 | 1 |" in (tmp_path / "sweep/study.md").read_text()
    record = read_record(tmp_path / "sweep/1")
    assert record is not None
    assert (record.status, record.error, record.value) == ("failed", "ValueError: 2 is broken", None)


def test_a_sweep_that_is_started_again_runs_only_the_missing_jobs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did not finish"):
        sweep(tmp_path, ["a=1,2,3", "seed=1"], Task(2))
    task = Task()
    folder = sweep(tmp_path, ["a=0,1,2,3", "seed=1"], task)
    assert task.made == [(0, 1), (2, 1)]
    # The new one gets the next number, the failed one keeps its own.
    assert [json.loads((folder / f"{n}/metrics.json").read_text())["test/accuracy"] for n in range(4)] == [
        pytest.approx(value) for value in (0.11, 0.21, 0.31, 0.01)
    ]
    sweep(tmp_path, ["a=0,1,2,3", "seed=1"], again := Task())
    assert again.made == []


def test_a_setting_that_changed_is_another_job(tmp_path: Path) -> None:
    sweep(tmp_path, ["a=1"], Task())
    sweep(tmp_path, ["a=1"], changed := Task(), more="c: 3\n")
    sweep(tmp_path, ["a=1"], same := Task(), more="c: 3\n")
    assert (changed.made, same.made) == ([(1, 1)], [])


def test_a_job_that_was_killed_is_run_again(tmp_path: Path) -> None:
    folder = sweep(tmp_path, ["a=1,2"], Task())
    (folder / "1/job.json").unlink()
    sweep(tmp_path, ["a=1,2"], task := Task())
    assert task.made == [(2, 1)]
    assert {path.name for path in folder.glob("[0-9]*")} == {"0", "1"}


def test_the_command_line_replaces_a_studys_values(tmp_path: Path) -> None:
    sweep(tmp_path, [], Task())  # to have the folder of configs
    (tmp_path / "configs/study/s.yaml").write_text(
        "# @package _global_\nstudy: s\nhydra: {sweeper: {params: {a: '1,2', seed: '1,2'}}}\n"
    )
    sweep(tmp_path, ["study=s", "++seed=7"], task := Task())
    assert task.made == [(1, 7), (2, 7)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["a=1,2", "seed=3,x"], r"job 1 \(a=1 seed=x\): seed=x is not a whole number from 0 to 4294967295"),
        (["a=1,'${nope}'"], r"job 1 \(a=.*\): Interpolation key 'nope' not found"),
        (["+study=a,b"], r"job 0 \(\+study=a\): there is no study=a"),
    ],
)
def test_no_job_starts_before_all_are_checked(tmp_path: Path, overrides: list[str], message: str) -> None:
    task = Task()
    with pytest.raises(InputError, match=message):
        sweep(tmp_path, overrides, task)
    assert task.made == []


def test_a_range_is_for_searches(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a=interval\(1,2\): a grid needs single values"):
        sweep(tmp_path, ["a=interval(1,2)"], Task())


def test_the_table_is_written_although_the_launcher_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [launcher] = [found for found in Plugins.instance().discover(Launcher) if found.__name__ == "BasicLauncher"]
    launch = launcher.launch

    def dying(self: Any, job_overrides: Any, initial_job_idx: int) -> Any:
        launch(self, job_overrides[:1], initial_job_idx)
        raise MemoryError("a worker was killed")

    monkeypatch.setattr(launcher, "launch", dying)
    with pytest.raises(InputError, match=r"1 of 2 jobs .*MemoryError: a worker was killed\): 1 \(killed, or still"):
        sweep(tmp_path, ["a=1,2"], Task())
    assert "| accuracy ↑ | 0.110 |" in (tmp_path / "sweep/study.md").read_text()


def test_secrets_are_not_saved_with_the_sweep(tmp_path: Path) -> None:
    folder = sweep(tmp_path, ["a=1"], Task(), more="api_key: abcdefgh12345678\n")
    assert "abcdefgh12345678" not in (folder / "multirun.yaml").read_text()


def test_a_launcher_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: Any, **_: Any) -> Any:
        raise RuntimeError("Unknown plugin class")

    monkeypatch.setattr(Plugins, "instantiate_launcher", absent)
    with pytest.raises(InputError, match="hydra/launcher=joblib needs the package hydra-joblib-launcher: pip install"):
        sweep(tmp_path, ["a=1", "hydra/launcher=joblib"], Task())
