"""The runs under a folder, as far as their files can be read; what can not is told, not dropped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from introspect.core.errors import InputError, one_line
from introspect.core.redaction import REDACTED, is_secret_key, redact
from introspect.tracking.board.curves import Curve, read_curves
from introspect.tracking.board.dissections import Layer, read_layers
from introspect.tracking.board.traces import Side, read_side

Status = Literal["finished", "unfinished", "broken"]
T = TypeVar("T")

SIDES = ("baseline", "model")
_MARKS = frozenset({".hydra", "metrics.json", "rollouts", "csv", "dissection", "dissection.json"})
_ELSEWHERE = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")
_STEPS = 8  # from place to place, at most
_TAIL = 4096  # bytes of a log's end that are looked at
_PREFIX = re.compile(r"^\[([^],]*)[^]]*\]\[[^]]*\]\[(\w+)\] - ")  # of our log files: time, module, level
_LINE = 240  # characters of its last line that are shown


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run was started with. overrides: as typed, without secrets."""

    task: str = ""
    experiment: str = ""
    tags: tuple[str, ...] = ()
    seed: str = ""
    data: str = ""
    overrides: tuple[str, ...] = ()
    is_tested: bool = True


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder. name: its path below the one that was searched.

    reasons: why it is unfinished or broken, a line each. metrics: numbers by `side/metric` for reasoning and by the
    logged name for images; None where one is undefined. bounds: 95 % intervals of the same. judge: who judged.
    """

    folder: Path
    name: str
    status: Status
    reasons: tuple[str, ...]
    settings: Settings
    metrics: Mapping[str, float | None]
    bounds: Mapping[str, tuple[float, float]]
    judge: str
    curves: Mapping[str, Curve]
    layers: Sequence[Layer]
    sides: Mapping[str, Side]


def find_runs(root: Path) -> Iterator[Path]:
    """The folders of runs in and under a folder, in order; a run inside another one is a part of it.

    Raises:
        InputError: there is no such folder, or one can not be listed.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the one that holds the runs, usually logs")

    def complain(error: OSError) -> None:
        raise InputError(f"{error.filename}: can not be listed: {error.strerror}")

    for place, folders, files in os.walk(root, onerror=complain):
        if _MARKS & {*folders, *files}:
            folders.clear()
            yield Path(place)
        folders.sort()


def read_run(folder: Path, root: Path, rollouts: int) -> Run:
    """Everything that the board shows of a run.

    Args:
        folder: the run's.
        root: the folder that was searched.
        rollouts: of each side at most.
    """
    reasons: list[str] = []

    def tried(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except InputError as error:
            reasons.append(one_line(str(error).replace(f"{folder}{os.sep}", "")))
            return otherwise

    settings = tried(lambda: _settings(folder), Settings())
    content: dict[str, Any] = tried(lambda: _metrics(folder), {})
    layers: list[Layer] = tried(lambda: read_layers(folder), [])
    curves: dict[str, Curve] = tried(lambda: read_curves(folder), {})
    sides = {side: tried(lambda side=side: read_side(folder, side, rollouts), None) for side in SIDES}  # type: ignore[misc]
    status: Status = "broken" if reasons else "finished"
    if not reasons and settings.is_tested and not (folder / "metrics.json").is_file() and not layers:
        status, reasons = "unfinished", _unfinished(folder)
    metrics, bounds = _numbers(content)
    return Run(
        folder=folder,
        name=folder.relative_to(root).as_posix() if folder != root else root.resolve().name,
        status=status,
        reasons=tuple(reasons),
        settings=settings,
        metrics=metrics,
        bounds=bounds,
        judge=_judge(content.get("judge")),
        curves=curves,
        layers=layers,
        sides={name: side for name, side in sides.items() if side is not None},
    )


def _settings(folder: Path) -> Settings:
    place = folder / ".hydra"
    if not place.is_dir():
        return Settings()
    config, hydra = _yaml(place / "config.yaml", dict), _yaml(place / "hydra.yaml", dict)
    choices = _inside(hydra, "hydra", "runtime", "choices")
    tags, seed = config.get("tags"), _value(config, "seed")
    return Settings(
        task=str(config.get("task_name") or ""),
        experiment=str(choices.get("experiment") or ""),
        tags=tuple(map(str, tags)) if isinstance(tags, list) else (),
        seed="" if seed is None else str(seed),
        data=str(choices.get("data") or choices.get("concepts") or ""),
        overrides=tuple(map(_without_secret, map(str, _yaml(place / "overrides.yaml", list)))),
        # Only traces were wanted, or only a training.
        is_tested=config.get("test") is not False
        and (config.get("train") is not False or bool(config.get("ckpt_path"))),
    )


def _yaml(path: Path, kind: type[T]) -> T:
    """The content of a file; an absent one is empty."""
    import yaml

    if not path.is_file():
        return kind()
    try:
        content = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is not YAML: {error}") from error
    if not isinstance(content, kind):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected a {kind.__name__}")
    return content


def _value(config: Mapping[str, Any], key: str) -> Any:
    """A setting, also where it is said elsewhere in the config.

    Nothing else is resolved, the environment least of all: the files of a run may be anyone's.
    """
    value: Any = config.get(key)
    for _ in range(_STEPS):
        found = _ELSEWHERE.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            break
        *path, last = found[1].split(".")
        value = _inside(config, *path).get(last, value)
    return value


def _inside(values: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    found: Any = values
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _without_secret(override: str) -> str:
    key, given, _ = override.partition("=")
    if given and is_secret_key(key.lstrip("+~").rpartition(".")[2]):
        return f"{key}={REDACTED}"
    return str(redact(override))


def _metrics(folder: Path) -> dict[str, Any]:
    """The content of `metrics.json`; an absent one is empty."""
    path = folder / "metrics.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected metrics by name")
    return content


def _numbers(content: Mapping[str, Any]) -> tuple[dict[str, float | None], dict[str, tuple[float, float]]]:
    """Metrics and intervals, by name; those of a side by `side/name`."""
    metrics: dict[str, float | None] = {}
    bounds: dict[str, tuple[float, float]] = {}
    sides = [("", content)] + [(f"{side}/", _inside(content, side)) for side in SIDES]
    for prefix, values in sides:
        metrics |= {f"{prefix}{name}": _number(value) for name, value in values.items() if _is_number(value)}
        intervals = _inside(values, "ci95")
        pairs = {name: pair for name, pair in intervals.items() if isinstance(pair, list) and len(pair) == 2}
        bounds |= {f"{prefix}{n}": (float(p[0]), float(p[1])) for n, p in pairs.items() if all(map(_is_finite, p))}
    return metrics, bounds


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < float("inf")


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and _is_finite(value) else None


def _judge(settings: Any) -> str:
    identity = _inside(settings, "identity") if isinstance(settings, Mapping) else {}
    return str(identity.get("model") or ("unnamed judge" if settings else ""))


def _unfinished(folder: Path) -> list[str]:
    """Why a run that wanted a test has no numbers: nobody knows, but its log may tell."""
    reasons = ["no metrics.json: the run still goes on, was stopped, or failed"]
    for path in sorted(folder.glob("*.log")):
        if path.name in ("config_tree.log", "tags.log"):
            continue
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if last:
            said = _PREFIX.sub(r"\1 \2: ", redact(last))[:_LINE]
            reasons.append(f"{path.name} ends with: {said}")
    return reasons
