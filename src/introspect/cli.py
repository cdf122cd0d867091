"""Around the entry points: what the user typed is checked before anything heavy is imported.

A mistake of the user's (`InputError`, a config that does not compose, a part that cannot be built from its settings)
becomes one line on stderr and exit status 2. Anything else is a bug and keeps its traceback, and
`HYDRA_FULL_ERROR=1` shows the traceback of everything.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import introspect.assets  # noqa: F401 - configs name embedded models through its resolver
from introspect.errors import InputError
from introspect.tracking.redaction import is_secret_key, redact

USER_ERROR = 2
INTERRUPTED = 130
FULL_ERROR = "HYDRA_FULL_ERROR"
MORE = f"({FULL_ERROR}=1 shows the traceback)"

# What the user asked for: `run` changes the variable for Hydra.
_traceback_wanted = os.environ.get(FULL_ERROR) == "1"

# What has been printed: runs of a sweep may share a mistake, and Hydra hands the first one on in the end.
_said: set[str] = set()


def run(main: Callable[[], object]) -> None:
    """Run a function as a command: one of `@hydra.main`, or one with options of its own.

    Raises:
        SystemExit: with status 2 for a mistake of the user's, 130 when interrupted.
    """
    script = Path(sys.argv[0]).resolve()
    # Tools that are run by `python -m` have no configs beside them, and help of their own.
    if sys.argv[1:] in (["--help"], ["-h"]) and (script.parent / "configs").is_dir():
        print(help_text(script))  # noqa: T201
        return
    with _one_line_errors():
        refuse_secrets(sys.argv[1:])
        read_environment(Path(".env"))
        # Hydra would spread what is wrong with the config over many lines: make it hand the exception on.
        os.environ[FULL_ERROR] = "1"
        # Our launchers go by the names that users know from the plugins, whose options they then check.
        warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/")
        main()


def help_text(script: Path) -> str:
    """What `--help` prints: the template of configs/hydra/default.yaml, with the options that are there.

    Hydra makes the same text in four times the time, because it composes every option to name it.
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
    """Make an entry point's `cfg -> metrics` what Hydra runs: checked first, and returning the metric to optimise."""

    @wraps(verb)
    def checked(cfg: DictConfig) -> float | None:
        if not _traceback_wanted:
            os.environ.pop(FULL_ERROR, None)  # from here on, also for processes that are started
        try:
            with _one_line_errors(leave=not _is_swept()):
                check(cfg)
                return objective(cfg, verb(cfg))
        finally:
            os.environ[FULL_ERROR] = "1"  # Hydra hands on what a sweep's run raised, as `run` had it do

    return checked


def _is_swept() -> bool:
    """Whether this is one of several runs: if it fails, the others are still made."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def _one_line_errors(leave: bool = True) -> Iterator[None]:
    """Print what the user can mend as one line, and leave the program with a status that says so, or hand it on."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted: every response that was made is kept, the same command makes the rest", file=sys.stderr)  # noqa: T201
        sys.exit(INTERRUPTED)
    except Exception as error:
        message = explain(error)
        if _traceback_wanted or message is None:
            raise
        if message not in _said:
            print(f"error: {message}", file=sys.stderr)  # noqa: T201
            _said.add(message)
        if not leave:
            raise
        sys.exit(USER_ERROR)


def explain(error: BaseException) -> str | None:
    """One line that tells the user what to change, or None if the error is a bug and deserves its traceback."""
    if isinstance(error, InputError):
        return _one_line(error)
    if isinstance(error, InstantiationException):
        return _explain_instantiation(error)
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"there is no {group}={name}: {group} can be {', '.join(error.options)}"
    if isinstance(error, RuntimeError) and str(error).startswith("Error(s) in loading state_dict"):
        return f"ckpt_path: the weights of the checkpoint are not those of the model: {_one_line(error)[:300]}"
    if type(error).__name__ == "MisconfigurationException":  # Lightning's; to import it would take seconds
        return f"{_one_line(error)} {MORE}"
    if isinstance(error, ValueError) and str(error).startswith("Config group override"):
        return "a group cannot be null: leave it out with ~GROUP, or take GROUP=none where there is one"
    if isinstance(error, OverrideParseException):
        reason = _one_line(error.message.splitlines()[0])
        return f"{error.override!r} is not key=value: {reason} (a value with = , : or blanks needs quotes: \"key='…'\")"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_composition(error)
    return None


def _explain_composition(error: Exception) -> str:
    """What is wrong with the config, without Hydra's links and internals."""
    words, key = [], ""
    for line in (line.strip() for line in str(error).splitlines()):
        if line.startswith("full_key:"):
            key = f" (at {line.partition(':')[2].strip()})"
        elif line and not line.startswith(("See ", "http", "object_type=", "reference_type=")):
            words.append(line.removeprefix("InputError raised while resolving interpolation: "))
    message = " ".join(words) or type(error).__name__
    return f"{_of_the_sweep(message)}{key}"


def _of_the_sweep(message: str) -> str:
    """Hydra composes the default experiment before a sweep, and refuses a setting that only the swept ones have."""
    unknown = re.match(r"Could not override '([^']+)'\. ", message)
    if unknown is None or not {"-m", "--multirun"} & {*sys.argv}:
        return message
    return f"{unknown[0]}If the swept experiments have it and the default one has not, write ++{unknown[1]}=…"


def _explain_instantiation(error: InstantiationException) -> str:
    """`data.benchmark: ValueError: …`: the config key and what went wrong at the bottom."""
    key = next((line.split(":", 1)[1].strip() for line in str(error).splitlines() if line.startswith("full_key:")), "")
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    place = f"{key}: " if key else ""
    if isinstance(cause, InputError):
        return f"{place}{_one_line(cause)}"
    what = str(error).splitlines()[0] if cause is error else f"{type(cause).__name__}: {_one_line(cause)}"
    return f"{place}{what} {MORE}"


def _one_line(error: BaseException | str) -> str:
    return " ".join(str(error).split())


def check(cfg: DictConfig) -> None:
    """Refuse a config that cannot work, before torch is imported; all complaints in one line.

    Raises:
        InputError: naming each key at fault and what it should be.
    """
    _hide_saved_secrets(cfg)
    complaints = [*_mistyped(cfg), *_launch_conflicts(cfg)] or [*_unresolved(cfg)]
    if complaints:
        raise InputError("; ".join(complaints))


def _unresolved(cfg: DictConfig) -> Iterator[str]:
    missing = sorted(_missing(OmegaConf.to_container(cfg, resolve=False)))
    yield from (f"{key} is required: give {key}=…" for key in missing)
    if not missing:
        try:
            OmegaConf.to_container(cfg, resolve=True)
        except OmegaConfBaseException as error:
            yield _explain_composition(error)


def _missing(values: Any, key: str = "") -> Iterator[str]:
    """The keys whose value is `???`, in nested dicts and lists."""
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
    if "rescore" in cfg and cfg.rescore is None and cfg.ckpt_path is None:
        yield "ckpt_path is required: a checkpoint, a model folder or a hub id; or give rollouts=…"
    network = cfg.get("network", {})
    if "ckpt_path" in network and network.ckpt_path is None and network.get("weights") is None:
        yield "ckpt_path is required: the weights of the network; or give network=torchvision network.weights=…"


def _launch_conflicts(cfg: DictConfig) -> Iterator[str]:
    """Lightning starts the other processes of `ddp` by running the command again: under `-m`, the whole sweep."""
    from hydra.core.hydra_config import HydraConfig

    if not _is_swept():
        return
    given = OmegaConf.select(cfg, "trainer.strategy")
    strategy = given.get("_target_", "").rpartition(".")[2].lower() if OmegaConf.is_dict(given) else str(given)
    restarts = strategy.startswith(("ddp", "fsdp", "deepspeed")) and not strategy.endswith(("_spawn", "_fork"))
    if restarts and not HydraConfig.get().launcher._target_.endswith("SlurmLauncher"):
        yield (
            f"-m does not go with trainer.strategy={strategy}, whose processes would each repeat the whole sweep: "
            "use trainer.strategy=ddp_spawn, hydra/launcher=submitit_slurm, or one command per run"
        )


def refuse_secrets(overrides: Sequence[str]) -> None:
    """Refuse a secret on the command line, from where it would reach saved overrides, logs and the process list.

    Raises:
        InputError: naming the key and how to give it instead.
    """
    for override in overrides:
        key, given, value = override.partition("=")
        name = key.lstrip("+~")
        literal = value.strip("'\"") not in ("", "null", "true", "false") and "${" not in value
        if given and literal and (is_secret_key(name.rpartition(".")[2]) or redact(value) != value):
            raise InputError(
                f"{name} looks like a secret, which would be saved with the run: put it into an environment variable "
                f"and give '{name}=${{oc.env:NAME}}'"
            )


def read_environment(path: Path) -> None:
    """Set the variables of a file of `NAME=value` lines, if there is one; what the environment has already stays.

    Raises:
        InputError: for a line that is neither that nor a comment.
    """
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith("#"):
            continue
        name, given, value = text.partition("=")
        if not given or not name.strip().isidentifier():
            raise InputError(f"{path}: line {number}: expected NAME=value or a # comment")
        os.environ.setdefault(name.strip(), value.strip().strip("'\""))


def _hide_saved_secrets(cfg: DictConfig) -> None:
    """Redact the config that Hydra has saved beside the run; what it left as `${oc.env:…}` stays as it is."""
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
        path.write_text(OmegaConf.to_yaml(OmegaConf.create(redact(saved))))


def objective(cfg: DictConfig, metrics: Mapping[str, float]) -> float | None:
    """The metric that a sweeper optimises, or None if the config names none.

    Raises:
        InputError: if `optimized_metric` was never logged.
    """
    name = cfg.get("optimized_metric")
    if name is None:
        return None
    if name not in metrics:
        raise InputError(f"optimized_metric={name} was never logged; logged were: {', '.join(sorted(metrics))}")
    return metrics[name]
