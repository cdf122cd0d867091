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

from introspect.core.command import explain
from introspect.core.errors import Pruned
from introspect.core.files import write_text
from introspect.core.nested import flatten
from introspect.sweeps.jobs import DONE, Record, folders, portable, read_record, write_record
from introspect.tracking.table import OBJECTIVE, Block, Run, compare_arms, latex, markdown, published

log = logging.getLogger(__name__)

METRICS = "metrics.json"
SEED, EXPERIMENT = "seed", "experiment"
BROKEN = "broken"  # the status of a finished run whose numbers cannot be read


class StudyTable(Callback):
    """Compares the arms of a sweep over seeds: `study.md` and `study.tex` in its folder, in the end in the terminal.

    Each job leaves in its folder what became of it. The files are written anew after every one, so that they are there
    if a later one fails. A run that did not finish, or whose numbers cannot be read (`broken`), is named in the table,
    with what became of it; a sweep without any numbers gives no table.

    Args:
        metrics: names of the rows, as they stand in each run's `metrics.json` (`outer/inner` where it is nested), with
            the heading of each; rows that no run has are left out. Where it ends with ↑ or ↓, the best is marked.
        published: numbers of others to stand below, by heading, row and arm; of the arms that the sweep has.
    """

    def __init__(
        self,
        metrics: Mapping[str, str],
        published: Mapping[str, Mapping[str, Mapping[str, float]]] = MappingProxyType({}),
    ) -> None:
        self.metrics, self.others = dict(metrics), published

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Record what became of the job, and write the table as far as there is one."""
        if config.hydra.mode == RunMode.MULTIRUN:
            write_record(config, job_return)
            self._speak(job_return)
            self._write(config)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write the table and show it."""
        folder = Path(config.hydra.sweep.dir)
        runs = read_runs(folder)
        for place in folders(folder):
            record = read_record(place)
            is_without = record is None or (record.value is None and record.status != "pruned")
            if read_metrics(place) is None:
                log.warning("%s is not readable as JSON: this run is broken", place / METRICS)
            elif is_without and not (place / METRICS).is_file():
                log.warning("%s: no %s: this run has no numbers in the table", place, METRICS)
        table = self._write(config)
        if not table:
            return
        import rich
        from rich.markdown import Markdown

        rich.print(Markdown(markdown(table)))
        log.info("the study is in %s and study.tex", folder / "study.md")
        log_study(folder, runs, self._names(config), table)

    def _speak(self, returned: JobReturn) -> None:
        """Leave a bug's traceback in the log of the job, and hand on only what another process can read."""
        error = returned._return_value
        if isinstance(error, Exception) and not isinstance(error, Pruned):
            if explain(error) is None:
                log.error("this job failed", exc_info=error)
            returned.return_value = portable(error)

    def _write(self, config: DictConfig) -> list[Block]:
        folder = Path(config.hydra.sweep.dir)
        table = compare_arms(read_runs(folder), self._names(config))
        if table:
            table += published(list(table[0].cells.columns), self.others)
            write_text(folder / "study.md", markdown(table))
            write_text(folder / "study.tex", latex(table))
        return table

    def _names(self, config: DictConfig) -> dict[str, str]:
        """The rows, and of a search what it optimises."""
        metric = OmegaConf.select(config, "optimized_metric")
        direction = OmegaConf.select(config, "hydra.sweeper.direction")
        if metric is None or direction is None:
            return self.metrics
        return {OBJECTIVE: f"{metric} {'↑' if direction == 'maximize' else '↓'}", **self.metrics}


def log_study(folder: Path, runs: Sequence[Run], names: Mapping[str, str], table: Sequence[Block]) -> None:
    """Give W&B the runs and the table, in a run of its own that stands in the group of the others.

    Nothing is logged if the sweep's first run did not log to W&B.

    Args:
        folder: of the sweep.
        runs: of it.
        names: metric to heading.
        table: what they amount to.
    """
    from introspect.tracking.loggers import finish_wandb, wandb_logger

    first = folders(folder)[0] / ".hydra"
    config, hydra = (OmegaConf.load(first / name) for name in ("config.yaml", "hydra.yaml"))
    settings = OmegaConf.select(config, "logger.wandb")
    if settings is None:
        return
    shown = [name for name in names if any(name in run.metrics for run in runs)]
    rows = [[run.arm, run.seed, run.status, *(run.metrics.get(name) for name in shown)] for run in runs]
    tracker = wandb_logger(
        project=settings.project,
        save_dir=folder,
        name=f"study {folder.name}",
        group=OmegaConf.select(config, "study") or OmegaConf.select(hydra, "hydra.runtime.choices.experiment"),
        sweep=folder.name,
        job_type="study",
        offline=settings.offline,
    )
    tracker.log_table("study", columns=["arm", SEED, "status", *(names[name] for name in shown)], data=rows)
    means = table[0]
    tracker.log_table(
        "study/means",
        columns=["arm", *means.cells.index],
        data=[[arm, *cells] for arm, cells in zip(means.cells.columns, means.cells.T.to_numpy(), strict=True)],
    )
    finish_wandb()


def read_runs(folder: Path) -> list[Run]:
    """The runs of a sweep's folder, in the order of their numbers; seeds that come again are numbered.

    A job that did not finish and was made again under another number is left out.
    """
    places = folders(folder)
    given = [_overrides(place / ".hydra" / "overrides.yaml") for place in places]
    records = [read_record(place) for place in places]
    done = {record.identity for record in records if record and record.status in DONE}
    runs: list[Run] = []
    for place, overrides, record in zip(places, given, records, strict=True):
        status = _status(place, record)
        if record and status not in DONE and record.identity in done:
            continue
        varied = {
            name: value
            for name, value in overrides.items()
            if name == EXPERIMENT or any(other.get(name) != value for other in given)
        }
        arm, seed = _arm(varied), overrides.get(SEED, "")
        again = sum((run.arm, run.seed.partition(" ")[0]) == (arm, seed) for run in runs)
        metrics = read_metrics(place) if status == "finished" else {}
        if metrics is None:
            status, metrics = BROKEN, {}
        elif record and record.value is not None:
            metrics[OBJECTIVE] = record.value
        runs.append(Run(arm, f"{seed} ({again + 1})" if again else seed, metrics, status))
    return runs


def _status(place: Path, record: Record | None) -> str:
    """What became of a run; one that has numbers and left no record was made before there were records."""
    if not (place / "job.json").is_file() and (place / METRICS).is_file():
        return "finished"
    return record.status if record else "unfinished"


def read_metrics(place: Path) -> dict[str, float] | None:
    """The numbers of a run's folder, by `outer/inner`; none without a file, None where the file is broken."""
    file = place / METRICS
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    numbers = flatten(content) if isinstance(content, Mapping) else None
    return numbers and {name: float(value) for name, value in numbers.items() if isinstance(value, int | float)}


def _overrides(file: Path) -> dict[str, str]:
    """What a run was given, by name."""
    items = [str(item).lstrip("+") for item in OmegaConf.load(file)]
    return dict(item.split("=", 1) for item in items if "=" in item)


def _arm(overrides: Mapping[str, str]) -> str:
    """The experiment, and what else was varied but the seed: `kd, model.lr=0.1`."""
    parts = [value if name == EXPERIMENT else f"{name}={value}" for name, value in overrides.items() if name != SEED]
    return ", ".join(parts) or "default"
