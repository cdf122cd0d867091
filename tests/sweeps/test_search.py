"""Searches through Hydra itself, with a task of a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from introspect.core.errors import InputError, Pruned
from tests.sweeps.sweeping import sweep

optuna = pytest.importorskip("optuna", reason="searches need the package optuna")

MORE = "lr: 0.1\nkind: a\n"
SEARCH = ["hydra/sweeper=optuna", "optimized_metric=x", "hydra.sweeper.n_trials=6"]
LR = "lr=tag(log,interval(0.001,1))"


def trials(folder: Path) -> list[Any]:
    from introspect.sweeps.search import NAME, journal

    return optuna.load_study(study_name=NAME, storage=journal(folder / "optuna.journal")).trials


def test_the_best_is_found_and_kept(tmp_path: Path) -> None:
    seen: list[float] = []

    def task(cfg: DictConfig) -> float:
        seen.append(cfg.lr)
        return -((cfg.lr - 0.1) ** 2)

    folder = sweep(tmp_path, [*SEARCH, LR, "a=5"], task, MORE)
    assert len(seen) == 6
    assert len(set(seen)) == 6
    assert all(0.001 <= value <= 1 for value in seen)
    best = min(range(6), key=lambda at: abs(seen[at] - 0.1))
    found = json.loads((folder / "best.json").read_text())
    assert found == {"job": best, "value": pytest.approx(-((seen[best] - 0.1) ** 2)), "overrides": [f"lr={seen[best]}"]}
    assert f"**{found['value']:.3f}**" in (folder / "study.md").read_text()
    # Started again with more trials, it goes on and does not propose the same once more.
    sweep(tmp_path, [*SEARCH[:-1], LR, "a=5", "hydra.sweeper.n_trials=8"], task, MORE)
    assert len(seen) == len(set(seen)) == 8
    with pytest.raises(InputError, match=r"started with other settings \(a\): give them as they were"):
        sweep(tmp_path, [*SEARCH, LR, "a=6"], task, MORE)


def test_trials_with_nan_and_infinity_are_pruned_and_the_search_continues(tmp_path: Path) -> None:
    values = iter([0.5, float("nan"), float("inf"), 0.7, 0.6, 0.1])
    folder = sweep(tmp_path, [*SEARCH, LR], lambda cfg: next(values), MORE)
    states = [trial.state.name for trial in trials(folder)]
    assert states == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert json.loads((folder / "best.json").read_text())["job"] == 3


def test_a_pruned_trial_is_no_failure_and_the_search_continues_after_a_failed_one(tmp_path: Path) -> None:
    results = iter([0.5, Pruned("slow"), ValueError("no memory"), 0.7, 0.6, 0.1])

    def task(cfg: DictConfig) -> float:
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    with pytest.raises(InputError, match=r"1 of 6 jobs did not finish: 2 \(ValueError: no memory\)"):
        sweep(tmp_path, [*SEARCH, LR], task, MORE)
    folder = tmp_path / "sweep"
    assert [trial.state.name for trial in trials(folder)][1:3] == ["PRUNED", "FAIL"]
    assert "| one | pruned | failed | one | one | one |" in (folder / "study.md").read_text()


def test_a_search_whose_trials_all_fail_ends(tmp_path: Path) -> None:
    def task(cfg: DictConfig) -> float:
        raise ValueError("always")

    with pytest.raises(InputError, match="3 of 3 jobs did not finish"):
        sweep(tmp_path, [*SEARCH, LR], task, MORE)


def test_an_interrupted_trial_is_run_again(tmp_path: Path) -> None:
    seen: list[float] = []

    def task(cfg: DictConfig) -> float:
        seen.append(cfg.lr)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, [*SEARCH, LR], task, MORE)
    sweep(tmp_path, [*SEARCH, LR], task, MORE)
    assert len(seen) == 7
    assert seen[2] == seen[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval(1,2)", "FloatDistribution(high=2.0, log=False, low=1.0, step=None)"),
        ("a=tag(log,interval(0.1,2))", "FloatDistribution(high=2.0, log=True, low=0.1, step=None)"),
        ("a=int(interval(1,8))", "IntDistribution(high=8, log=False, low=1, step=1)"),
        ("a=tag(log,int(interval(1,8)))", "IntDistribution(high=8, log=True, low=1, step=1)"),
        ("a=range(1,4)", "IntDistribution(high=3, log=False, low=1, step=1)"),
        ("a=range(2,9,3)", "IntDistribution(high=8, log=False, low=2, step=3)"),
        ("a=choice(1,2.5,b)", "CategoricalDistribution(choices=(1, 2.5, 'b'))"),
        ("a=4,8", "CategoricalDistribution(choices=(4, 8))"),
    ],
)
def test_ranges(text: str, expected: str) -> None:
    from introspect.sweeps.search import distribution

    [override] = OverridesParser.create().parse_overrides([text])
    assert str(distribution(override)) == expected


@pytest.mark.parametrize("text", ["a=range(4,4)", "a=tag(log,interval(0,1))", "a=interval(2,1)"])
def test_an_empty_range_is_refused(text: str) -> None:
    from introspect.sweeps.search import distribution

    [override] = OverridesParser.create().parse_overrides([text])
    with pytest.raises(InputError, match="a="):
        distribution(override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra/sweeper=optuna", LR], "optimized_metric is required"),
        (SEARCH, "nothing is searched"),
        ([*SEARCH, LR, "hydra.sweeper.n_trials=0"], "expected 1 or more"),
        ([*SEARCH, LR, "hydra.sweeper.direction=up"], "expected maximize or minimize"),
        ([*SEARCH, LR, "seed=x"], r"job 0 \(.* seed=x lr=.*\): seed=x is not a whole number"),
    ],
)
def test_a_search_that_cannot_work_is_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        sweep(tmp_path, overrides, lambda cfg: 1.0, MORE)
