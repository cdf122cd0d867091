"""The end of a sweep: all its runs in one table."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from introspect.tracking.wandb import finish, wandb_logger

log = logging.getLogger(__name__)

METRICS = "metrics.json"
SEED, EXPERIMENT = "seed", "experiment"


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a sweep: what was varied but the seed, the seed, and what was measured."""

    arm: str
    seed: str
    metrics: Mapping[str, float]


class StudyTable(Callback):
    """Compares the arms of a sweep over seeds: `study.md` in the sweep's folder, and in the end in the terminal.

    The file is written anew after every run, so that it is there if a later one fails. A run without `metrics.json` is
    left out, in the end with its name; a sweep without any gives no table.

    Args:
        metrics: names of the rows, as they stand in each run's `metrics.json` (`outer/inner` where it is nested), with
            the heading of each; rows that no run has are left out.
    """

    def __init__(self, metrics: Mapping[str, str]) -> None:
        self.metrics = dict(metrics)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Write the table as far as there is one."""
        if config.hydra.mode == RunMode.MULTIRUN:
            folder = Path(config.hydra.sweep.dir)
            if table := study(read_runs(folder), self.metrics):
                _write(folder / "study.md", table)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Read the runs and write the table."""
        folder = Path(config.hydra.sweep.dir)
        runs = read_runs(folder)
        for job in sorted(folder.glob("*/.hydra"), key=_number):
            if not (job.parent / METRICS).is_file():
                log.warning("%s: no %s: this run is not in the table", job.parent, METRICS)
        table = study(runs, self.metrics)
        if table is None:
            return
        import rich
        from rich.markdown import Markdown

        _write(folder / "study.md", table)
        rich.print(Markdown(table))
        log.info("the study is in %s", folder / "study.md")
        log_study(folder, runs, self.metrics)


def _write(file: Path, text: str) -> None:
    """Whole or not at all: runs of a sweep may be processes beside each other."""
    partial = file.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def log_study(folder: Path, runs: Sequence[Run], names: Mapping[str, str]) -> None:
    """Give W&B the runs as a table, in a run of its own that stands in the group of the others.

    Nothing is logged if the sweep's first run did not log to W&B.

    Args:
        folder: of the sweep.
        runs: of it.
        names: metric to heading.
    """
    first = min(folder.glob("*/.hydra"), key=_number)
    config, hydra = (OmegaConf.load(first / name) for name in ("config.yaml", "hydra.yaml"))
    settings = OmegaConf.select(config, "logger.wandb")
    if settings is None:
        return
    shown = [name for name in names if any(name in run.metrics for run in runs)]
    rows = [[run.arm, run.seed, *(run.metrics.get(name) for name in shown)] for run in runs]
    tracker = wandb_logger(
        project=settings.project,
        save_dir=folder,
        name=f"study {folder.name}",
        group=OmegaConf.select(config, "study") or OmegaConf.select(hydra, "hydra.runtime.choices.experiment"),
        sweep=folder.name,
        job_type="study",
        offline=settings.offline,
    )
    tracker.log_table("study", columns=["arm", SEED, *(names[name] for name in shown)], data=rows)
    finish()


def read_runs(folder: Path) -> list[Run]:
    """The finished runs of a sweep's folder, in the order of their numbers; seeds that come again are numbered."""
    runs: list[Run] = []
    places = sorted(folder.glob("*/.hydra"), key=_number)
    given = [
        dict(
            str(item).lstrip("+").split("=", 1) for item in OmegaConf.load(place / "overrides.yaml") if "=" in str(item)
        )
        for place in places
    ]
    for place, overrides in zip(places, given, strict=True):
        job = place.parent
        seed = overrides.get(SEED, "")
        varied = {
            name: value
            for name, value in overrides.items()
            if name == EXPERIMENT or any(other.get(name) != value for other in given)
        }
        file = job / METRICS
        if file.is_file():
            measured = _flat(json.loads(file.read_text(encoding="utf-8")))
            again = sum((run.arm, run.seed.partition(" ")[0]) == (_arm(varied), seed) for run in runs)
            runs.append(Run(_arm(varied), f"{seed} ({again + 1})" if again else seed, measured))
    return runs


def _overrides(file: Path) -> dict[str, str]:
    """What a run was given, by name."""
    items = [str(item).lstrip("+") for item in OmegaConf.load(file)]
    return dict(item.split("=", 1) for item in items if "=" in item)


def _number(place: Path) -> str:
    """By what runs are ordered, of their `.hydra` folders: 2 before 10."""
    return place.parent.name.zfill(6)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested mappings, by `outer/inner`."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[f"{prefix}{name}"] = float(value)
    return found


def _arm(overrides: Mapping[str, str]) -> str:
    """The experiment, and what else was varied but the seed: `kd, model.lr=0.1`."""
    parts = [value if name == EXPERIMENT else f"{name}={value}" for name, value in overrides.items() if name != SEED]
    return ", ".join(parts) or "default"


def study(runs: Sequence[Run], names: Mapping[str, str]) -> str | None:
    """The arms side by side, mean ± standard deviation over seeds, and differences to the first arm, paired by seed.

    Args:
        runs: of one sweep.
        names: metric to heading.

    Returns:
        Markdown, or None if no run has any of the metrics.
    """
    rows = [name for name in names if any(name in run.metrics for run in runs)]
    if not rows:
        return None
    arms = list(dict.fromkeys(run.arm for run in runs))
    values = {arm: {run.seed: run.metrics for run in runs if run.arm == arm} for arm in arms}
    seeds = {arm: ", ".join(values[arm]) for arm in arms}
    head = [
        "| mean ± sd over seeds | " + " | ".join(arms) + " |",
        "|---|" + "---|" * len(arms),
        "| seeds | " + " | ".join(seeds[arm] or "one" for arm in arms) + " |",
    ]
    body = [
        f"| {names[name]} | "
        + " | ".join(_spread([m[name] for m in values[arm].values() if name in m]) for arm in arms)
        + " |"
        for name in rows
    ]
    lines = [*head, *body]
    if len(arms) > 1:
        first, others = arms[0], arms[1:]
        lines += [
            "",
            f"| difference to {first}, paired by seed | " + " | ".join(others) + " |",
            "|---|" + "---|" * len(others),
        ]
        for name in rows:
            cells = []
            for arm in others:
                shared = [seed for seed in values[arm] if seed in values[first]]
                pairs = [
                    values[arm][seed][name] - values[first][seed][name]
                    for seed in shared
                    if name in values[arm][seed] and name in values[first][seed]
                ]
                cells.append(_spread(pairs, signed=True))
            lines.append(f"| {names[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float], *, signed: bool = False) -> str:
    if not values or any(math.isnan(value) for value in values):
        return "–"
    sign = "+" if signed else ""
    digits = 3 if max(map(abs, values)) < 10 and any(value != round(value) for value in values) else 1
    middle = f"{mean(values):{sign}.{digits}f}"
    return f"{middle} ± {stdev(values):.{digits}f}" if len(values) > 1 else middle
