"""What the sweepers share: jobs are composed and checked before any starts, fail alone, and are reported at the end."""

from __future__ import annotations

import itertools
import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from introspect.core.command import explain
from introspect.core.errors import InputError, one_line
from introspect.core.files import write_text
from introspect.core.redaction import redact
from introspect.sweeps.jobs import DONE, RECORD, Job, describe, outcome

log = logging.getLogger(__name__)

NUMBERED = "${hydra.job.num}"


class ReportingSweeper(Sweeper):
    """A sweeper that reads the outcome of each job from its folder, also after the launcher has failed.

    Args:
        params: overrides that the sweep begins with, by name; those of the command line replace them.
        check: raises InputError for a config that cannot work, before anything heavy is imported.
    """

    def __init__(self, params: dict[str, Any] | None, check: Callable[[DictConfig], None]) -> None:
        self.params = dict(params or {})
        self.check = check
        self.config: DictConfig = OmegaConf.create()
        self.hydra_context: HydraContext | None = None
        self.launcher: Launcher | None = None
        self.launcher_error: str | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra provides, and create the launcher.

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
        """The folder of the sweep."""
        return Path(self.config.hydra.sweep.dir)

    @abstractmethod
    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs that the arguments ask for."""

    def begin(self, arguments: Sequence[str]) -> list[Override]:
        """Create the folder and parse the overrides.

        Returns:
            The overrides of the config file, then those of the command line; of two for one key, the last counts.
        """
        content = OmegaConf.to_container(self.config, resolve=False)
        write_text(self.folder / "multirun.yaml", OmegaConf.to_yaml(OmegaConf.create(redact(content))))
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = [f"{name}={value}" for name, value in self.params.items()]
        found = {(each.key_or_group, each.package): each for each in parser.parse_overrides([*given, *arguments])}
        return list(found.values())

    def compose(self, number: int, overrides: Sequence[str]) -> DictConfig:
        """Compose the config of a job, with Hydra's part, and check it as the job itself will.

        Raises:
            InputError: names the job and what is wrong with its config.
        """
        assert self.hydra_context is not None
        before = HydraConfig.instance().cfg
        try:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.num, config.hydra.job.id = number, str(number)
                config.hydra.runtime.output_dir = str(self.folder / str(number))
            HydraConfig.instance().set_config(config)
            self.check(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
        except Exception as error:
            reason = explain(error)
            if reason is None:
                raise
            raise InputError(f"job {number} ({one_line(' '.join(overrides))}): {reason}") from error
        finally:
            HydraConfig.instance().cfg = before
        return config

    def launch(self, jobs: Sequence[Job]) -> None:
        """Run jobs. A job that fails leaves its error in its folder; an error of the launcher is reported."""
        assert self.launcher is not None
        for job in jobs:
            (self.folder / str(job.number) / RECORD).unlink(missing_ok=True)
        # The folders of a template other than ours keep its names; ours are numbered over all starts of the sweep.
        template = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)
        assert isinstance(template, dict)
        is_numbered = template["subdir"] == NUMBERED
        batch = [[*job.overrides, *([f"hydra.sweep.subdir={job.number}"] if is_numbered else [])] for job in jobs]
        try:
            self.launcher.launch(batch, initial_job_idx=jobs[0].number)
        except Exception as error:
            self.launcher_error = f"{type(error).__name__}: {one_line(error, 300)}"
            log.warning("the launcher failed: %s", self.launcher_error, exc_info=not isinstance(error, InputError))

    def end(self, jobs: Sequence[Job], remedy: str) -> None:
        """Report the jobs that did not finish.

        Args:
            jobs: all that were launched.
            remedy: how the failed ones are run again.

        Raises:
            InputError: some did not finish; the callbacks of the sweep's end have run before.
        """
        failed = [job for job in jobs if outcome(self.folder, job).status not in DONE]
        if not failed:
            return
        assert self.hydra_context is not None
        name = self.config.hydra.job.config_name
        self.hydra_context.callbacks.on_multirun_end(config=self.config, config_name=name)
        cause = f" (the launcher failed: {self.launcher_error})" if self.launcher_error else ""
        raise InputError(
            f"{len(failed)} of {len(jobs)} jobs did not finish{cause}: {describe(self.folder, failed)}; {remedy}"
        )


def fixed(override: Override) -> str:
    """Return an override that is no sweep, as text."""
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """Return every combination of the values that the overrides give, the last override varying fastest.

    Raises:
        InputError: an override gives a range that only a search can use.
    """
    choices: list[list[str]] = []
    for each in overrides:
        if not each.is_sweep_override():
            choices.append([fixed(each)])
        elif each.is_discrete_sweep():
            choices.append([f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()])
        else:
            raise InputError(f"{each.input_line}: a grid needs single values; a range needs hparams_search=…")
    return [list(combination) for combination in itertools.product(*choices)]


def missing_launcher(config: DictConfig, error: BaseException) -> str:
    """Say what to install for a launcher that is not there."""
    name = str(config.hydra.runtime.choices.get("hydra/launcher"))
    for package in ("joblib", "ray", "submitit"):
        if name.partition("_")[0] == package:
            package = f"hydra-{package}-launcher"
            return f"hydra/launcher={name} needs the package {package}: pip install {package}"
    return f"hydra/launcher={name}: {one_line(error)}"
