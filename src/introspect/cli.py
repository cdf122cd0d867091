"""Check what the user has typed, before the entry points import anything heavy.

A mistake of the user (`InputError`, a config that does not compose, a part that cannot be built from its settings)
becomes one line on stderr and exit status 2. Anything else is a bug and keeps its traceback, and
`HYDRA_FULL_ERROR=1` shows the traceback of everything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import introspect.assets  # noqa: F401 - configs name embedded models through its resolver
from introspect.core import command
from introspect.core.errors import InputError
from introspect.core.files import write_text
from introspect.core.redaction import redact
from introspect.sweeps.command_line import is_swept, launch_conflicts, with_first_choices


def run(main: Callable[[], object]) -> None:
    """Run a function of `@hydra.main` as a command; see `core.command.run`."""
    script = Path(sys.argv[0]).resolve()
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(help_text(script))  # noqa: T201
        return
    sys.argv[1:] = with_first_choices(sys.argv[1:], script.with_name("configs"))
    command.run(main)


def help_text(script: Path) -> str:
    """Return what `--help` prints: the template of configs/hydra/default.yaml, with all options.

    Hydra takes four times as long, because it composes every option to name it.
    """
    configs = script.resolve().parent / "configs"
    template = str(OmegaConf.to_container(OmegaConf.load(configs / "hydra" / "default.yaml"))["help"]["template"])  # type: ignore[index,call-overload]
    groups: dict[str, list[str]] = {}
    for file in sorted(configs.rglob("*.yaml")):
        group = file.parent.relative_to(configs).as_posix()
        if group != "." and not group.startswith("hydra"):
            groups.setdefault(group, []).append(file.stem)
    options = "".join(f"{group}: {', '.join(names)}\n" for group, names in sorted(groups.items()))
    return template.replace("${hydra.job.name}", script.stem).replace("$APP_CONFIG_GROUPS", options)


def task(verb: Callable[[DictConfig], Mapping[str, float]]) -> Callable[[DictConfig], float | None]:
    """Turn an entry point's `cfg -> metrics` into what Hydra runs: check first, and return the metric to optimize."""

    @wraps(verb)
    def checked(cfg: DictConfig) -> float | None:
        if not command.traceback_wanted:
            os.environ.pop(command.FULL_ERROR, None)  # from here on, also for processes that are started
        try:
            with command.one_line_errors(leave=not is_swept()):
                check(cfg)
                return objective(cfg, verb(cfg))
        finally:
            os.environ[command.FULL_ERROR] = "1"  # Hydra hands on what a sweep's run raised, as `run` had it do

    return checked


def check(cfg: DictConfig) -> None:
    """Refuse a config that cannot work, with all its mistakes in one line.

    Raises:
        InputError: naming each key at fault and what it should be.
    """
    _hide_saved_secrets(cfg)
    complaints = [*_mistyped(cfg), *launch_conflicts(cfg)] or [*_unresolved(cfg)]
    if complaints:
        raise InputError("; ".join(complaints))


def _unresolved(cfg: DictConfig) -> Iterator[str]:
    missing = sorted(_missing(OmegaConf.to_container(cfg, resolve=False)))
    yield from (f"{key} is required: give {key}=…" for key in missing)
    if not missing:
        try:
            OmegaConf.to_container(cfg, resolve=True)
        except OmegaConfBaseException as error:
            yield command.explain_composition(error)


def _missing(values: Any, key: str = "") -> Iterator[str]:
    """Yield the keys whose value is `???`, in nested dicts and lists."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _missing(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from _missing(value, f"{key}[{index}]")
    elif values == "???":
        yield key


def _mistyped(cfg: DictConfig) -> Iterator[str]:
    expected: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "seed": ("a whole number from 0 to 4294967295", lambda v: type(v) is int and 0 <= v < 2**32),
        "train": ("true or false", lambda v: type(v) is bool),
        "test": ("true or false", lambda v: type(v) is bool),
        "task_name": ("a name", lambda v: isinstance(v, str) and v != ""),
        "tags": ("a list such as [dev,trial]", lambda v: OmegaConf.is_list(v) and all(isinstance(t, str) for t in v)),
        "ckpt_path": ("a path or null", lambda v: v is None or isinstance(v, str)),
        "optimized_metric": ("the name of a metric or null", lambda v: v is None or isinstance(v, str)),
    }
    for key, (what, is_valid) in expected.items():
        if key in cfg and not OmegaConf.is_missing(cfg, key) and not is_valid(cfg[key]):
            yield f"{key}={cfg[key]} is not {what}"
    for need in cfg.get("needs", ()):
        if all(OmegaConf.select(cfg, key) is None for key in need.one_of):
            yield str(need.otherwise)


def _hide_saved_secrets(cfg: DictConfig) -> None:
    """Redact the config that Hydra has saved with the run; unresolved `${oc.env:…}` stays."""
    from hydra.core.hydra_config import HydraConfig

    composed = OmegaConf.to_container(cfg, resolve=False)
    if redact(composed) == composed or not HydraConfig.initialized():
        return
    subfolder = HydraConfig.get().output_subdir
    if subfolder is None:
        return
    folder = Path(HydraConfig.get().runtime.output_dir) / subfolder
    for path in folder.glob("*.yaml"):
        saved = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        write_text(path, OmegaConf.to_yaml(OmegaConf.create(redact(saved))))


def objective(cfg: DictConfig, metrics: Mapping[str, float]) -> float | None:
    """Return the metric that a sweeper optimizes, or None if the config names none.

    Raises:
        InputError: if `optimized_metric` was never logged.
    """
    name = cfg.get("optimized_metric")
    if name is None:
        return None
    if name not in metrics:
        raise InputError(f"optimized_metric={name} was never logged; logged were: {', '.join(sorted(metrics))}")
    return metrics[name]
