"""Runs as the board finds and reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from introspect.core.errors import InputError
from introspect.tracking.board.runs import Run, find_runs, read_run
from tests.tracking.board.made import curves, hydra, image_run, reasoning_run, rollout


def read(folder: Path) -> Run:
    return read_run(folder, folder.parent, 10)


def test_runs_are_found_in_order_and_none_within_another(tmp_path: Path) -> None:
    for name in ("train/multiruns/day/1", "train/multiruns/day/0", "evaluate/runs/day"):
        reasoning_run(tmp_path / name)
    image_run(tmp_path / "kd")
    (tmp_path / "empty").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in find_runs(tmp_path)]
    assert found == ["evaluate/runs/day", "kd", "train/multiruns/day/0", "train/multiruns/day/1"]
    assert list(find_runs(tmp_path / "kd")) == [tmp_path / "kd"]
    assert list(find_runs(tmp_path / "empty")) == []
    with pytest.raises(InputError, match="nowhere: no such folder"):
        list(find_runs(tmp_path / "nowhere"))


def test_a_finished_run(tmp_path: Path) -> None:
    folder = reasoning_run(tmp_path / "run", tags=("a", "b"), seed=3, tuned=[rollout()], judged=True)
    curves(folder, [{"step": 1, "train/loss": 2}])
    run = read(folder)
    assert (run.name, run.status, run.reasons) == ("run", "finished", ())
    settings = run.settings
    assert (settings.experiment, settings.tags, settings.seed) == ("mbt_r", ("a", "b"), "3")
    assert settings.overrides == ("experiment=mbt_r", "seed=3")
    assert run.metrics["baseline/accuracy"] == 0.4
    assert run.metrics["model/aes"] == 3.0
    assert run.bounds["model/accuracy"] == (0.8, 1.0)
    assert run.judge == "a judge"
    assert list(run.curves) == ["train/loss"]
    assert list(run.sides) == ["model"]


def test_a_run_on_images(tmp_path: Path) -> None:
    run = read(image_run(tmp_path / "run"))
    assert run.metrics["test/accuracy"] == 0.8
    assert [layer.name for layer in run.layers] == ["layer3"]


def test_an_unfinished_run_shows_the_last_line_of_its_log(tmp_path: Path) -> None:
    hydra(tmp_path / "run", "mbt_r")
    (tmp_path / "run/tags.log").write_text("not this\n")
    line = "[2026-11-23 03:16:11,436][lightning.pytorch][INFO] - Received SIGTERM, hf_abcdefghijklmnop1234"
    (tmp_path / "run/train.log").write_text(f"before\n{line}\n\n")
    run = read(tmp_path / "run")
    assert run.status == "unfinished"
    assert run.reasons == (
        "no metrics.json: the run is in progress, was stopped, or failed",
        "train.log ends with: 2026-11-23 03:16:11 INFO: Received SIGTERM, ***",
    )


@pytest.mark.parametrize("config", [{"test": False}, {"train": False}])
def test_a_run_without_a_test_is_finished_without_metrics(tmp_path: Path, config: dict[str, bool]) -> None:
    hydra(tmp_path / "run", "mbt_r", **config)
    assert read(tmp_path / "run").status == "finished"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("metrics.json", "{", "metrics.json: is not JSON"),
        ("metrics.json", "[]", "metrics.json: holds a list, expected a dict"),
        (".hydra/config.yaml", "a: [", ".hydra/config.yaml: is not YAML"),
        (".hydra/overrides.yaml", "a: 1", ".hydra/overrides.yaml: holds a dict, expected a list"),
        ("csv/version_0/metrics.csv", "step,a\n1,x\n", "csv/version_0/metrics.csv: row 2: a is 'x', expected a number"),
        ("rollouts/model.parquet", "PAR", "rollouts/model.parquet: not a readable Parquet file"),
        ("dissection/layer3/dissection.json", "{}", "dissection/layer3/dissection.json: is not of a saved dissection"),
    ],
)
def test_a_broken_file_is_reported_and_the_rest_is_shown(tmp_path: Path, name: str, text: str, reason: str) -> None:
    folder = image_run(tmp_path / "run")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    run = read(folder)
    assert run.status == "broken"
    [found] = run.reasons
    assert found.startswith(reason)
    assert "\n" not in found
    assert run.settings.experiment == "" if "hydra" in name else "kd"
    assert bool(run.metrics) == (name != "metrics.json")


def test_values_that_are_not_finite_are_null(tmp_path: Path) -> None:
    hydra(tmp_path / "run", "kd")
    content = {"a": float("nan"), "b": float("inf"), "c": None, "d": "text", "e": True, "model": [], "ci95": {"a": [1]}}
    (tmp_path / "run/metrics.json").write_text(json.dumps(content))
    run = read(tmp_path / "run")
    assert (run.metrics, run.bounds) == ({"a": None, "b": None, "c": None}, {})


def test_no_secret_leaves_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hidden")
    hydra(tmp_path / "run", "kd", seed="${oc.env:SOME_TOKEN}")
    given = ["teacher.api_key=abc", "+a=sk-abcdefghijklmnopqrst1", "b=1"]
    (tmp_path / "run/.hydra/overrides.yaml").write_text(json.dumps(given))
    settings = read(tmp_path / "run").settings
    assert settings.overrides == ("teacher.api_key=***", "+a=***", "b=1")
    assert settings.seed == "${oc.env:SOME_TOKEN}"


def test_a_seed_that_refers_to_another_setting(tmp_path: Path) -> None:
    hydra(tmp_path / "run", "teacher", seed="${model.seed}", model={"seed": "${other}"}, other=7)
    assert read(tmp_path / "run").settings.seed == "7"
    hydra(tmp_path / "run", "teacher", seed="${seed}")
    assert read(tmp_path / "run").settings.seed == "${seed}"
