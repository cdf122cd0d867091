"""Optuna's side of a search: the space, the journal on disk, and the state of its trials.

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
from introspect.sweeps.sweeper import fixed

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

NAME = "search"
JOURNAL = "optuna.journal"
_INTERRUPTED = "interrupted/"  # attributes of a study: trials that are run again under another number


def journal(file: str | Path) -> BaseStorage:
    """Return the storage that a search is kept in."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(file)))


def split(overrides: Sequence[Override]) -> tuple[list[str], dict[str, BaseDistribution]]:
    """Separate the overrides that are the same in all trials from the space of the others.

    Raises:
        InputError: Optuna is not installed, or a range cannot be searched.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise InputError("a search needs the package optuna: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {each.get_key_element(): distribution(each) for each in overrides if each.is_sweep_override()}
    return [fixed(each) for each in overrides if not each.is_sweep_override()], space


def distribution(override: Override) -> BaseDistribution:
    """Return the range that `interval(a, b)`, `range(a, b, step)` or `choice(a, b, …)` stands for.

    `tag(log, …)` makes it logarithmic, `int(interval(a, b))` integer, with both ends. The values of a choice are as
    they are typed.

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


def example(space: dict[str, BaseDistribution]) -> list[str]:
    """Return the overrides of a trial that belongs to no search, to check a config with."""
    import optuna

    return ask(optuna.create_study(), space)[1]


def open_study(
    folder: Path, direction: Literal["maximize", "minimize"], sampler: BaseSampler, settings: dict[str, Any]
) -> Study:
    """Open the search that is kept in a folder; create it if there is none.

    Args:
        folder: the folder of the sweep.
        direction: `maximize` or `minimize`.
        sampler: proposes trials.
        settings: what has to be the same when the search is resumed.

    Raises:
        InputError: the search of the folder was started with other settings.
    """
    import optuna

    study = optuna.create_study(
        study_name=NAME, storage=journal(folder / JOURNAL), direction=direction, sampler=sampler, load_if_exists=True
    )
    first = study.user_attrs.get("settings", settings)
    if first != settings:
        changed = sorted(str(key) for key in {*first, *settings} if first.get(key) != settings.get(key))
        raise InputError(
            f"{folder / JOURNAL} was started with other settings ({', '.join(changed)}): give them as they were to "
            "resume it, or hydra.sweep.dir=… for another search"
        )
    study.set_user_attr("settings", settings)
    return study


def reclaim(study: Study) -> None:
    """Put the trials that were interrupted at the head of the queue: they are run again."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
        study.set_user_attr(f"{_INTERRUPTED}{trial.number}", True)


def ended(study: Study) -> int:
    """Count the trials that came to an end, successful or not."""
    is_ended = [trial.state.is_finished() for trial in study.get_trials(deepcopy=False)]
    return sum(is_ended) - sum(name.startswith(_INTERRUPTED) for name in study.user_attrs)


def ask(study: Study, space: dict[str, BaseDistribution]) -> tuple[Trial, list[str]]:
    """Return the next trial and its overrides."""
    trial = study.ask(space)
    return trial, overrides_of(trial.params)


def tell(study: Study, trial: Trial, record: Record) -> None:
    """Report the outcome of a trial.

    A trial whose objective is not a finite number counts as pruned, and the sampler avoids its settings; one that
    failed or was killed teaches the sampler nothing.
    """
    from optuna.trial import TrialState

    if record.status == "finished" and record.value is not None:
        study.tell(trial, record.value)
        return
    if record.status == "finished":
        log.warning("trial %d: the objective is not a finite number: the trial counts as pruned", trial.number)
    study.tell(trial, state=TrialState.PRUNED if record.status in ("finished", "pruned") else TrialState.FAIL)


def best(study: Study) -> FrozenTrial | None:
    """Return the best trial; None if none has finished."""
    try:
        return study.best_trial
    except ValueError:
        return None


def overrides_of(params: dict[str, Any]) -> list[str]:
    """Return the parameters of a trial as overrides."""
    return [f"{name}={value}" for name, value in params.items()]
