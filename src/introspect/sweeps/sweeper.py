"""What our sweepers have in common: jobs that fail alone, and a report at the end in any case."""

from __future__ import annotations

import itertools
import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from introspect.core.errors import InputError, one_line
from introspect.core.files import write_text
from introspect.core.redaction import redact
from introspect.sweeps.jobs import DONE, RECORD, Job, describe, outcome

log = logging.getLogger(__name__)

NUMBERED = "${hydra.job.num}"


class ReportingSweeper(Sweeper):
    """A sweeper whose jobs are read from their folders: also what a launcher that gave up has made is there.

    Args:
        params: overrides that the sweep begins with, by name; those of the command line replace them.
    """

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self.params = dict(params or {})
        self.config: DictConfig = OmegaConf.create()
        self.hydra_context: HydraContext | None = None
        self.launcher: Launcher | None = None
        self.trouble: str | None = None  # why the launcher gave up

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives.

        Raises:
            InputError: the launcher is a package that is not installed.
        """
        self.hydra_context, self.config = hydra_context, config
        try:
            self.launcher = Plugins.instance().instantiate_launcher(
                hydra_context=hydra_context, task_function=task_function, config=config
            )
        except (ImportError, RuntimeError) as error:
            raise InputError(missing_launcher(config, error)) from error

    @property
    def folder(self) -> Path:
        """Of the sweep."""
        return Path(self.config.hydra.sweep.dir)

    @abstractmethod
    def sweep(self, arguments: list[str]) -> Any:
        """Make the jobs that the arguments ask for."""

    def begin(self, arguments: Sequence[str]) -> list[Override]:
        """Make the folder, and read what is asked for.

        Returns:
            The settings of the config file, then those of the command line; one that comes again replaces the first.
        """
        content = OmegaConf.to_container(self.config, resolve=False)
        write_text(self.folder / "multirun.yaml", OmegaConf.to_yaml(OmegaConf.create(redact(content))))
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = [f"{name}={value}" for name, value in self.params.items()]
        found = {(each.key_or_group, each.package): each for each in parser.parse_overrides([*given, *arguments])}
        return list(found.values())

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of a job, with Hydra's part."""
        assert self.hydra_context is not None
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))

    def launch(self, jobs: Sequence[Job]) -> None:
        """Make jobs. Those that fail say so in their folders."""
        assert self.launcher is not None
        for job in jobs:
            (self.folder / str(job.number) / RECORD).unlink(missing_ok=True)
        # A name of their own stays theirs; numbered folders need not be those of this start.
        template = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)
        assert isinstance(template, dict)
        is_numbered = template["subdir"] == NUMBERED
        batch = [[*job.overrides, *([f"hydra.sweep.subdir={job.number}"] if is_numbered else [])] for job in jobs]
        try:
            self.launcher.launch(batch, initial_job_idx=jobs[0].number)
        except Exception as error:
            self.trouble = f"{type(error).__name__}: {one_line(error, 300)}"
            log.warning("the launcher gave up: %s", self.trouble, exc_info=not isinstance(error, InputError))

    def end(self, jobs: Sequence[Job], remedy: str) -> None:
        """Report.

        Args:
            jobs: all that were launched.
            remedy: how the failed ones are made again.

        Raises:
            InputError: some did not finish. The callbacks have been told of the sweep's end before.
        """
        lost = [job for job in jobs if outcome(self.folder, job).status not in DONE]
        if not lost:
            return
        assert self.hydra_context is not None
        name = self.config.hydra.job.config_name
        self.hydra_context.callbacks.on_multirun_end(config=self.config, config_name=name)
        cause = f" (the launcher gave up: {self.trouble})" if self.trouble else ""
        raise InputError(
            f"{len(lost)} of {len(jobs)} jobs did not finish{cause}: {describe(self.folder, lost)}; {remedy}"
        )


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """Every combination of the values that the overrides give, the last override varying fastest.

    Raises:
        InputError: an override gives a range that only a search can use.
    """
    choices: list[list[str]] = []
    for each in overrides:
        if each.is_sweep_override() and not each.is_discrete_sweep():
            raise InputError(f"{each.input_line}: a grid needs single values; a range needs hparams_search=…")
        values = each.sweep_string_iterator() if each.is_sweep_override() else [each.get_value_element_as_str()]
        choices.append([f"{each.get_key_element()}={value}" for value in values])
    return [list(combination) for combination in itertools.product(*choices)]


def missing_launcher(config: DictConfig, error: BaseException) -> str:
    """What to install for a launcher that is not there."""
    name = config.hydra.runtime.choices.get("hydra/launcher")
    package = {"joblib": "hydra-joblib-launcher", "ray": "hydra-ray-launcher"}.get(
        str(name), "hydra-submitit-launcher" if str(name).startswith("submitit") else None
    )
    if package is None:
        return f"hydra/launcher={name}: {one_line(error)}"
    return f"hydra/launcher={name} needs the package {package}: pip install {package}"
