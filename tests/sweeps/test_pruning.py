from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from introspect.core.errors import InputError, Pruned
from introspect.sweeps.pruning import Pruning

optuna = pytest.importorskip("optuna", reason="searches need the package optuna")


def trainer(value: float | None, epoch: int, *, is_first: bool = True, told: bool | None = None) -> Any:
    """As much of a trainer as the callback looks at; `told` is what the first process has decided."""
    metrics = {} if value is None else {"val/accuracy": torch.tensor(value)}
    strategy = SimpleNamespace(broadcast=lambda own: own if told is None else told)
    return SimpleNamespace(callback_metrics=metrics, current_epoch=epoch, is_global_zero=is_first, strategy=strategy)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A search of two finished trials, 0.8 and 0.9 after each epoch, and a third that begins."""
    from introspect.sweeps.search import NAME, journal

    study = optuna.create_study(study_name=NAME, storage=journal(tmp_path / "j"), direction="maximize")
    for value in (0.8, 0.9):
        trial = study.ask({})
        for epoch in range(3):
            trial.report(value, epoch)
        study.tell(trial, value)
    study.ask({})
    return tmp_path / "j"


def pruning(file: Path, trial: int = 2) -> Pruning:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=1)
    return Pruning(monitor="val/accuracy", journal=file, trial=trial, pruner=pruner)


def reported(file: Path) -> dict[int, float]:
    from introspect.sweeps.search import NAME, journal

    return optuna.load_study(study_name=NAME, storage=journal(file)).trials[2].intermediate_values


def test_a_trial_below_the_median_ends(file: Path) -> None:
    callback: Any = pruning(file)
    callback.on_train_epoch_end(trainer(0.1, 0), None)  # too young
    with pytest.raises(Pruned, match=r"pruned after epoch 1: val/accuracy is 0\.2"):
        callback.on_train_epoch_end(trainer(0.2, 1), None)
    assert reported(file) == {0: pytest.approx(0.1), 1: pytest.approx(0.2)}


def test_a_better_trial_continues(file: Path) -> None:
    callback: Any = pruning(file)
    for epoch in range(3):
        callback.on_train_epoch_end(trainer(0.95, epoch), None)


def test_nan_ends_a_trial(file: Path) -> None:
    callback: Any = pruning(file)
    with pytest.raises(Pruned, match="is nan"):
        callback.on_train_epoch_end(trainer(float("nan"), 0), None)


def test_other_processes_do_what_the_first_decides(file: Path) -> None:
    callback: Any = pruning(file)
    with pytest.raises(Pruned):
        callback.on_train_epoch_end(trainer(0.95, 1, is_first=False, told=True), None)
    assert reported(file) == {}


def test_outside_of_a_search_nothing_happens(file: Path, tmp_path: Path) -> None:
    elsewhere: Any = pruning(tmp_path / "none")
    elsewhere.on_train_epoch_end(trainer(0.0, 2), None)
    here: Any = pruning(file)
    here.on_train_epoch_end(trainer(None, 2), None)
    assert reported(file) == {}


def test_the_metric_is_required(file: Path) -> None:
    with pytest.raises(InputError, match="give optimized_metric"):
        Pruning(monitor=None, journal=file, trial=0, pruner=None)  # type: ignore[arg-type]
