"""Optuna's side of a search: the space, the journal on disk, and what trials become in it.

The journal is a file in the sweep's folder that jobs on any machine can read and append to; no database is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer

from introspect.core.errors import InputError
from introspect.sweeps.jobs import Record

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

log = logging.getLogger(__name__)

NAME = "search"
JOURNAL = "optuna.journal"
INSTALL = "needs the package optuna: pip install optuna"


def journal(file: str | Path) -> BaseStorage:
    """The storage that a search is kept in.

    Raises:
        InputError: Optuna is not installed.
    """
    try:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ModuleNotFoundError as error:
        raise InputError(f"a search {INSTALL}") from error
    return JournalStorage(JournalFileBackend(str(file)))


def distribution(override: Override) -> BaseDistribution:
    """The range that `interval(a, b)`, `range(a, b, step)` or `choice(a, b, …)` stands for.

    `tag(log, …)` makes it logarithmic.
    `int(interval(a, b))` takes whole numbers, both ends among them. A choice's values are as they are typed.

    Raises:
        InputError: the range is empty, or not of a kind that can be searched.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    asked = override.value()
    try:
        if isinstance(asked, IntervalSweep):
            is_log = "log" in asked.tags
            if isinstance(asked.start, int) and isinstance(asked.end, int):
                return IntDistribution(asked.start, asked.end, log=is_log)
            return FloatDistribution(float(asked.start or 0), float(asked.end or 0), log=is_log)
        if isinstance(asked, RangeSweep):
            values = list(asked.range())
            if all(isinstance(value, int) for value in values):
                return IntDistribution(int(values[0]), int(values[-1]), step=int(asked.step))
            return FloatDistribution(values[0], values[-1], step=asked.step)
        choices: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
        return CategoricalDistribution(choices)
    except (ValueError, IndexError) as error:
        raise InputError(f"{override.input_line}: {error if str(error) else 'the range is empty'}") from error


def open_study(
    folder: Path, direction: Literal["maximize", "minimize"], sampler: BaseSampler, settings: dict[str, Any]
) -> Study:
    """The search that is kept in a folder; a new one if there is none.

    Args:
        folder: of the sweep.
        direction: `maximize` or `minimize`.
        sampler: proposes trials.
        settings: what has to be the same when the search goes on.

    Raises:
        InputError: the search of the folder was begun with other settings.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = journal(folder / JOURNAL)
    study = optuna.create_study(
        study_name=NAME, storage=storage, direction=direction, sampler=sampler, load_if_exists=True
    )
    begun = study.user_attrs.setdefault("settings", settings) if study.user_attrs else settings
    if begun != settings:
        changed = sorted(str(key) for key in {*begun, *settings} if begun.get(key) != settings.get(key))
        raise InputError(
            f"{folder / JOURNAL} was begun with other settings ({', '.join(changed)}): give them as they were to go "
            "on with it, or hydra.sweep.dir=… for another search"
        )
    study.set_user_attr("settings", settings)
    return study


def reclaim(study: Study) -> None:
    """Put the trials that were interrupted at the head of the queue: they are made again."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
        study.set_user_attr(f"interrupted/{trial.number}", True)


def made(study: Study) -> list[int]:
    """The numbers of the trials that came to an end, good or bad."""
    from optuna.trial import TrialState

    ends = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    interrupted = {name for name in study.user_attrs if name.startswith("interrupted/")}
    trials = study.get_trials(deepcopy=False, states=ends)
    return [trial.number for trial in trials if f"interrupted/{trial.number}" not in interrupted]


def ask(study: Study, space: dict[str, BaseDistribution]) -> tuple[Trial, list[str]]:
    """The next trial, and its overrides."""
    trial = study.ask(space)
    return trial, [f"{name}={value}" for name, value in trial.params.items()]


def tell(study: Study, trial: Trial, record: Record) -> None:
    """Say what became of a trial.

    One whose objective is not a finite number counts as pruned, which the sampler keeps away from; one that failed or
    was killed teaches it nothing.
    """
    from optuna.trial import TrialState

    if record.status == "finished" and record.value is not None:
        study.tell(trial, record.value)
    elif record.status == "finished":
        log.warning("trial %d: the objective is not a finite number: a bad trial", trial.number)
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, state=TrialState.PRUNED if record.status == "pruned" else TrialState.FAIL)


def best(study: Study) -> tuple[int, float, list[str]] | None:
    """Number, objective and overrides of the best trial; None if none has finished."""
    from optuna.trial import TrialState

    if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        return None
    found = study.best_trial
    assert found.value is not None
    return found.number, found.value, [f"{name}={value}" for name, value in found.params.items()]


def split(overrides: Sequence[Override]) -> tuple[list[str], dict[str, BaseDistribution]]:
    """What is the same in all trials, and the space of the rest."""
    fixed = [
        f"{o.get_key_element()}={o.get_value_element_as_str()}" if not o.is_delete() else str(o.input_line)
        for o in overrides
        if not o.is_sweep_override()
    ]
    return fixed, {o.get_key_element(): distribution(o) for o in overrides if o.is_sweep_override()}
