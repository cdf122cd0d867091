"""The end of a sweep: all its runs in one table."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from introspect.core.files import write_text
from introspect.core.nested import flatten
from introspect.sweeps.jobs import DONE, finish_job, folders, read_record
from introspect.tracking.table import OBJECTIVE, Block, Run, compare_arms, latex, markdown, published

log = logging.getLogger(__name__)

METRICS = "metrics.json"
SEED, EXPERIMENT = "seed", "experiment"
BROKEN = "broken"  # the status of a finished run whose numbers cannot be read


class StudyTable(Callback):
    """Compares the arms of a sweep over seeds: `study.md` and `study.tex` in its folder, at the end in the terminal.

    Each job leaves its outcome in its folder. The files are written again after every job, so that they exist if a
    later one fails. The table names a run that did not finish, or whose numbers cannot be read (`broken`), with its
    status; a sweep without any numbers has no table.

    Args:
        metrics: keys of the rows in each run's `metrics.json` (`outer/inner` where it is nested), with the heading of
            each row; rows that no run has are left out. Where a heading ends with ↑ or ↓, the best mean is bold.
        published: numbers of others, by heading, row and arm; those of the sweep's arms are appended.
    """

    def __init__(
        self,
        metrics: Mapping[str, str],
        published: Mapping[str, Mapping[str, Mapping[str, float]]] = MappingProxyType({}),
    ) -> None:
        self.metrics, self.others = dict(metrics), published

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Record the outcome of the job, and write the table of the jobs so far."""
        if config.hydra.mode == RunMode.MULTIRUN:
            finish_job(config, job_return)
            self._write(config)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write the table and show it."""
        folder = Path(config.hydra.sweep.dir)
        for place in folders(folder):
            record = read_record(place)
            is_expected = record is None or (record.value is None and record.status != "pruned")
            if read_metrics(place) is None:
                log.warning("%s is not readable as JSON: this run is broken", place / METRICS)
            elif is_expected and not (place / METRICS).is_file():
                log.warning("%s: no %s: this run has no numbers in the table", place, METRICS)
        table = self._write(config)
        if not table:
            return
        import rich
        from rich.markdown import Markdown

        rich.print(Markdown(markdown(table)))
        log.info("the study is in %s and study.tex", folder / "study.md")
        log_study(folder, read_runs(folder), self._names(config), table)

    def _write(self, config: DictConfig) -> list[Block]:
        folder = Path(config.hydra.sweep.dir)
        table = compare_arms(read_runs(folder), self._names(config))
        if table:
            table += published(list(table[0].cells.columns), self.others)
            write_text(folder / "study.md", markdown(table))
            write_text(folder / "study.tex", latex(table))
        return table

    def _names(self, config: DictConfig) -> dict[str, str]:
        """Return the headings of the rows by metric, with the objective of a search first."""
        metric = OmegaConf.select(config, "optimized_metric")
        direction = OmegaConf.select(config, "hydra.sweeper.direction")
        if metric is None or direction is None:
            return self.metrics
        return {OBJECTIVE: f"{metric} {'↑' if direction == 'maximize' else '↓'}", **self.metrics}


def log_study(folder: Path, runs: Sequence[Run], names: Mapping[str, str], table: Sequence[Block]) -> None:
    """Log the runs and the table to W&B, in a run of its own in the group of the others.

    Nothing is logged if the sweep's first run did not log to W&B.

    Args:
        folder: the folder of the sweep.
        runs: the runs of the sweep.
        names: metric to heading.
        table: the comparison of the runs.
    """
    from introspect.tracking.loggers import finish_wandb, wandb_logger

    first = folders(folder)[0] / ".hydra"
    config, hydra = (OmegaConf.load(first / name) for name in ("config.yaml", "hydra.yaml"))
    settings = OmegaConf.select(config, "logger.wandb")
    if settings is None:
        return
    shown = [name for name in names if any(name in run.metrics for run in runs)]
    tracker = wandb_logger(
        project=settings.project,
        save_dir=folder,
        name=f"study {folder.name}",
        group=OmegaConf.select(config, "study") or OmegaConf.select(hydra, "hydra.runtime.choices.experiment"),
        sweep=folder.name,
        job_type="study",
        offline=settings.offline,
    )
    tracker.log_table(
        "study",
        columns=["arm", SEED, "status", *(names[name] for name in shown)],
        data=[[run.arm, run.seed, run.status, *map(run.metrics.get, shown)] for run in runs],
    )
    means = table[0].cells
    tracker.log_table(
        "study/means",
        columns=["arm", *means.index],
        data=[[arm, *cells] for arm, cells in zip(means.columns, means.T.to_numpy().tolist(), strict=True)],
    )
    finish_wandb()


def read_runs(folder: Path) -> list[Run]:
    """Return the runs of a sweep's folder, in the order of their numbers; repeated seeds are numbered.

    A job that did not finish and was run again under another number is left out.
    """
    places = folders(folder)
    given = [_overrides(place / ".hydra" / "overrides.yaml") for place in places]
    records = [read_record(place) for place in places]
    done = {record.identity for record in records if record and record.status in DONE}
    runs: list[Run] = []
    for place, overrides, record in zip(places, given, records, strict=True):
        if record is None or (record.status not in DONE and record.identity in done):
            continue
        varied = {
            name: value
            for name, value in overrides.items()
            if name == EXPERIMENT or any(other.get(name) != value for other in given)
        }
        arm, seed = _arm(varied), overrides.get(SEED, "")
        again = sum((run.arm, run.seed.partition(" ")[0]) == (arm, seed) for run in runs)
        metrics = read_metrics(place) if record.status == "finished" else {}
        if metrics is not None and record.value is not None:
            metrics[OBJECTIVE] = record.value
        status = BROKEN if metrics is None else record.status
        runs.append(Run(arm, f"{seed} ({again + 1})" if again else seed, metrics or {}, status))
    return runs


def read_metrics(place: Path) -> dict[str, float] | None:
    """Return the numbers of a run's folder, by `outer/inner`; none without a file, None where the file is broken."""
    file = place / METRICS
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, Mapping):
        return None
    return {name: float(value) for name, value in flatten(content).items() if isinstance(value, int | float)}


def _overrides(file: Path) -> dict[str, str]:
    """Return the overrides of a run, by name."""
    items = [str(item).lstrip("+") for item in OmegaConf.load(file)]
    return dict(item.split("=", 1) for item in items if "=" in item)


def _arm(overrides: Mapping[str, str]) -> str:
    """Return the experiment, and what else was varied except for the seed: `kd, model.lr=0.1`."""
    parts = [value if name == EXPERIMENT else f"{name}={value}" for name, value in overrides.items() if name != SEED]
    return ", ".join(parts) or "default"
