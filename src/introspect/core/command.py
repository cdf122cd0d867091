"""Run a function as a command: a mistake of the user becomes one line on stderr and exit status 2.

A mistake of the user is an `InputError`, a config that does not compose, or a part that cannot be built from its
settings. Anything else is a bug and keeps its traceback; `HYDRA_FULL_ERROR=1` shows the traceback of everything.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from introspect.core.errors import InputError, one_line
from introspect.core.redaction import is_secret_key, redact

USER_ERROR = 2
INTERRUPTED = 130
FULL_ERROR = "HYDRA_FULL_ERROR"
MORE = f"({FULL_ERROR}=1 shows the traceback)"

# The user's own setting: `run` changes the variable for Hydra.
traceback_wanted = os.environ.get(FULL_ERROR) == "1"

# Messages printed so far: runs of a sweep may share a mistake, and Hydra raises the first one again at the end.
_printed: set[str] = set()


def run(main: Callable[[], object]) -> None:
    """Run a function as a command: one of `@hydra.main`, or one with options of its own.

    Raises:
        SystemExit: with status 2 for a mistake of the user, 130 when interrupted.
    """
    with one_line_errors():
        refuse_secrets(sys.argv[1:])
        read_environment(Path(".env"))
        # Hydra would print a config error over many lines: make it raise the exception instead.
        os.environ[FULL_ERROR] = "1"
        # Our launchers have the names that users know from the plugins, whose options they then check.
        warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/")
        main()


@contextmanager
def one_line_errors(leave: bool = True) -> Iterator[None]:
    """Print a mistake of the user as one line, and exit with status 2, or raise it again where `leave` is false."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted: every response that was made is kept, the same command makes the rest", file=sys.stderr)  # noqa: T201
        sys.exit(INTERRUPTED)
    except Exception as error:
        message = explain(error)
        if traceback_wanted or message is None:
            raise
        if message not in _printed:
            print(f"error: {message}", file=sys.stderr)  # noqa: T201
            _printed.add(message)
        if not leave:
            raise
        sys.exit(USER_ERROR)


def explain(error: BaseException) -> str | None:
    """Return one line that says what to change, or None if the error is a bug, which keeps its traceback."""
    if isinstance(error, InputError):
        return one_line(error)
    if isinstance(error, InstantiationException):
        return _explain_instantiation(error)
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"there is no {group}={name}: {group} can be {', '.join(error.options)}"
    if isinstance(error, RuntimeError) and str(error).startswith("Error(s) in loading state_dict"):
        return f"ckpt_path: the weights of the checkpoint are not those of the model: {one_line(error, 300)}"
    if type(error).__name__ == "MisconfigurationException":  # Lightning's; to import it would take seconds
        return f"{one_line(error)} {MORE}"
    if isinstance(error, ValueError) and str(error).startswith("Config group override"):
        return "a group cannot be null: leave it out with ~GROUP, or take GROUP=none where there is one"
    if isinstance(error, OverrideParseException):
        reason = one_line(error.message.splitlines()[0])
        return f"{error.override!r} is not key=value: {reason} (a value with = , : or blanks needs quotes: \"key='…'\")"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain_composition(error)
    return None


def explain_composition(error: Exception) -> str:
    """Return what is wrong with the config, without Hydra's links and internals."""
    words, key = [], ""
    for line in (line.strip() for line in str(error).splitlines()):
        if line.startswith("full_key:"):
            key = f" (at {line.partition(':')[2].strip()})"
        elif line and not line.startswith(("See ", "http", "object_type=", "reference_type=")):
            words.append(line.removeprefix("InputError raised while resolving interpolation: "))
    return f"{' '.join(words) or type(error).__name__}{key}"


def _explain_instantiation(error: InstantiationException) -> str:
    """Return `data.benchmark: ValueError: …`: the config key and the first cause."""
    key = next((line.split(":", 1)[1].strip() for line in str(error).splitlines() if line.startswith("full_key:")), "")
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    place = f"{key}: " if key else ""
    if isinstance(cause, InputError):
        return f"{place}{one_line(cause)}"
    what = str(error).splitlines()[0] if cause is error else f"{type(cause).__name__}: {one_line(cause)}"
    return f"{place}{what} {MORE}"


def refuse_secrets(overrides: Sequence[str]) -> None:
    """Refuse a secret on the command line, which saved overrides, logs and the process list would contain.

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
    """Set the variables of a file of `NAME=value` lines, if there is one, except those that are set already.

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
