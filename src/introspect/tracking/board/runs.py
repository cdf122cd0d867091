"""The runs under a folder, as far as their files can be read; what cannot is reported, not dropped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
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
_CONTENT = frozenset({".hydra", "metrics.json", "rollouts", "csv", "dissection", "dissection.json"})
_INTERPOLATION = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")
_STEPS = 8  # interpolations that lead to each other, at most
_TAIL = 4096  # bytes of a log's end that are read
_PREFIX = re.compile(r"^\[([^],]*)[^]]*\]\[[^]]*\]\[(\w+)\] - ")  # of our log files: time, module, level
_LINE = 240  # characters of its last line that are shown


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run was started with.

    Attributes:
        experiment: choice of `experiment=`.
        tags: words to find the run by.
        seed: seed of the run.
        overrides: command line as typed, without secrets.
        is_tested: whether the run ends with a test.
    """

    experiment: str = ""
    tags: tuple[str, ...] = ()
    seed: str = ""
    overrides: tuple[str, ...] = ()
    is_tested: bool = True


@dataclass(frozen=True, slots=True)
class Run:
    """What the board shows of a run.

    Attributes:
        name: path of the run's folder below the one that was searched.
        status: `finished`, `unfinished` or `broken`.
        reasons: why it is unfinished or broken, a line each.
        settings: what it was started with.
        metrics: numbers by `side/metric` for reasoning and by the logged name for images; None where undefined.
        bounds: 95 % confidence intervals of the same.
        judge: model of the judge; empty without one.
        curves: logged curves by metric.
        layers: dissected layers.
        sides: rollouts of `baseline` and `model`, as far as there are any.
    """

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
    """Yield the folders of runs in and under a folder, in order; a run inside another one is a part of it.

    Raises:
        InputError: there is no such folder, or one cannot be listed.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the one that holds the runs, usually logs")

    def complain(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed: {error.strerror}")

    for place, folders, files in os.walk(root, onerror=complain):
        if _CONTENT & {*folders, *files}:
            folders.clear()
            yield Path(place)
        folders.sort()


def read_run(folder: Path, root: Path, rollouts: int) -> Run:
    """Read everything that the board shows of a run.

    Args:
        folder: the folder of the run.
        root: the folder that was searched.
        rollouts: rollouts of each side at most.
    """
    reasons: list[str] = []

    def tried(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except InputError as error:
            reasons.append(one_line(str(error).replace(f"{folder}{os.sep}", "")))
            return otherwise

    settings = tried(lambda: _settings(folder), Settings())
    content: dict[str, Any] = tried(lambda: _content(folder / "metrics.json", dict, "JSON", json.loads), {})
    layers: list[Layer] = tried(lambda: read_layers(folder), [])
    curves: dict[str, Curve] = tried(lambda: read_curves(folder), {})
    sides = {side: tried(lambda side=side: read_side(folder, side, rollouts), None) for side in SIDES}  # type: ignore[misc]
    status: Status = "broken" if reasons else "finished"
    if not reasons and settings.is_tested and not (folder / "metrics.json").is_file() and not layers:
        status, reasons = "unfinished", _unfinished(folder)
    metrics, bounds = _numbers(content)
    judge = content.get("judge")
    return Run(
        name=folder.relative_to(root).as_posix() if folder != root else root.resolve().name,
        status=status,
        reasons=tuple(reasons),
        settings=settings,
        metrics=metrics,
        bounds=bounds,
        judge=str(_inside(content, "judge", "identity").get("model") or ("unnamed judge" if judge else "")),
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
    is_trained = config.get("train") is not False
    return Settings(
        experiment=str(choices.get("experiment") or ""),
        tags=tuple(map(str, tags)) if isinstance(tags, list) else (),
        seed="" if seed is None else str(seed),
        overrides=tuple(map(_without_secret, map(str, _yaml(place / "overrides.yaml", list)))),
        is_tested=config.get("test") is not False and (is_trained or bool(config.get("ckpt_path"))),
    )


def _yaml(path: Path, kind: type[T]) -> T:
    """Return the content of a YAML file; an absent one is empty."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return _content(path, kind, "YAML", lambda text: yaml.load(text, Loader=loader))  # noqa: S506 - safe


def _content(path: Path, kind: type[T], form: str, parse: Callable[[bytes], Any]) -> T:
    """Return the content of a file, which must be of a kind; an absent file is empty."""
    if not path.is_file():
        return kind()
    try:
        content = parse(path.read_bytes())
    except Exception as error:  # whatever a parser makes of a broken file
        raise InputError(f"{path}: is not {form}: {error}") from error
    if not isinstance(content, kind):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected a {kind.__name__}")
    return content


def _value(config: Mapping[str, Any], key: str) -> Any:
    """Return a setting, also where it refers to another one of the config.

    Nothing else is resolved, least of all variables of the environment: the files of a run may be anyone's.
    """
    value: Any = config.get(key)
    for _ in range(_STEPS):
        found = _INTERPOLATION.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            break
        *path, last = found[1].split(".")
        value = _inside(config, *path).get(last, value)
    return value


def _inside(values: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return a nested mapping; an empty one if any key is missing."""
    found: Any = values
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _without_secret(override: str) -> str:
    key, given, _ = override.partition("=")
    if given and is_secret_key(key.lstrip("+~").rpartition(".")[2]):
        return f"{key}={REDACTED}"
    return str(redact(override))


def _numbers(content: Mapping[str, Any]) -> tuple[dict[str, float | None], dict[str, tuple[float, float]]]:
    """Return metrics and confidence intervals by name; those of a side by `side/name`."""
    metrics: dict[str, float | None] = {}
    bounds: dict[str, tuple[float, float]] = {}
    for prefix, values in [("", content)] + [(f"{side}/", _inside(content, side)) for side in SIDES]:
        for name, value in values.items():
            if value is None or _is_number(value):
                metrics[f"{prefix}{name}"] = None if value is None or not isfinite(value) else float(value)
        for name, pair in _inside(values, "ci95").items():
            if isinstance(pair, list) and len(pair) == 2 and all(_is_number(end) and isfinite(end) for end in pair):
                bounds[f"{prefix}{name}"] = (float(pair[0]), float(pair[1]))
    return metrics, bounds


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unfinished(folder: Path) -> list[str]:
    """Return why a run that should be tested has no numbers, as far as the last lines of its logs tell."""
    reasons = ["no metrics.json: the run is in progress, was stopped, or failed"]
    for path in sorted(folder.glob("*.log")):
        if path.name in ("config_tree.log", "tags.log"):
            continue
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").split("\n")
        if last := next((line.strip() for line in reversed(lines) if line.strip()), ""):
            shown = _PREFIX.sub(r"\1 \2: ", redact(last))[:_LINE]
            reasons.append(f"{path.name} ends with: {shown}")
    return reasons
