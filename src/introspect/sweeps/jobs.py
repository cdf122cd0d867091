"""The jobs of a sweep: what each is made of, and what became of it, as files in its folder.

A job is known by its settings, not by its number: the same sweep, started again, finds its finished jobs wherever they
stand, and a setting that changed makes another job.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from introspect.core.command import explain
from introspect.core.errors import Pruned, one_line
from introspect.core.files import write_json
from introspect.core.redaction import redact

RECORD = "job.json"
Status = Literal["finished", "pruned", "failed", "unfinished"]
DONE: tuple[Status, ...] = ("finished", "pruned")


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a job.

    status: `unfinished` if it was started and nothing was heard of its end. error: of a failed one, in one line.
    value: what it returned to be optimised; None if that was nothing, or no finite number. identity: see `identity`.
    """

    status: Status
    identity: str
    value: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job of a sweep: its number, which names its folder, its overrides, and whether it was made before."""

    number: int
    overrides: tuple[str, ...]
    is_done: bool = False


def identity(config: DictConfig) -> str:
    """A fingerprint of a job's settings, without Hydra's own and without secrets.

    Interpolations stay unresolved: where the job's files lie is no setting of it.
    """
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    content.pop("hydra", None)
    return hashlib.sha256(json.dumps(redact(content), sort_keys=True, default=str).encode()).hexdigest()


def write_record(config: DictConfig, returned: JobReturn) -> None:
    """Leave what became of a job in its folder.

    Args:
        config: of the job, with Hydra's part.
        returned: of it; a job that raised returned its exception.
    """
    result = returned._return_value
    status: Status = "finished" if returned.status == JobStatus.COMPLETED else "failed"
    if isinstance(result, Pruned):
        status = "pruned"
    is_number = isinstance(result, int | float) and math.isfinite(result)
    record = Record(
        status=status,
        identity=identity(config),
        value=float(result) if is_number else None,
        error=failure(result) if status == "failed" and isinstance(result, BaseException) else None,
    )
    write_json(Path(config.hydra.runtime.output_dir) / RECORD, asdict(record))


def failure(error: BaseException) -> str:
    """An exception in one line of at most 300 characters, with its type unless it is the user's to mend."""
    return one_line(explain(error) or f"{type(error).__name__}: {error}", 300)


def portable(error: Exception) -> Exception:
    """The exception, or its line where it would not survive the way back from another process and end the sweep."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - what this process has just written
    except Exception:  # noqa: BLE001 - anything may go wrong in the pickling of another's class
        return RuntimeError(failure(error))
    return error


def read_record(folder: Path) -> Record | None:
    """What became of the job of a folder; None if the folder is no job's.

    A folder without a readable record is that of a job which was killed, or which goes on elsewhere.
    """
    settings = folder / ".hydra" / "config.yaml"
    if not settings.is_file():
        return None
    try:
        found = Record(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        loaded = OmegaConf.load(settings)
        assert isinstance(loaded, DictConfig)
        return Record("unfinished", identity(loaded))
    return found


def folders(sweep: Path) -> list[Path]:
    """The folders of a sweep's jobs: 2 before 10."""
    return sorted((path.parent for path in sweep.glob("*/.hydra")), key=lambda path: path.name.zfill(6))


def plan(compose: Callable[[int, Sequence[str]], DictConfig], batch: Sequence[Sequence[str]], sweep: Path) -> list[Job]:
    """Compose every job of a sweep and number it: a job in the folder keeps its number, a new one gets the next.

    Args:
        compose: number and overrides of a job to its config; raises InputError for a config that cannot work.
        batch: the overrides of each job.
        sweep: its folder, which may hold jobs already.

    Returns:
        A job for each entry of the batch, in its order.

    Raises:
        InputError: the config of a job cannot work; no job has started.
    """
    places: dict[str, list[tuple[int, Record]]] = {}
    for folder in folders(sweep):
        record = read_record(folder)
        if record is not None and folder.name.isdecimal():
            places.setdefault(record.identity, []).append((int(folder.name), record))
    following = 1 + max((number for known in places.values() for number, _ in known), default=-1)
    jobs: list[Job] = []
    for overrides in batch:
        known = places.get(identity(compose(following, overrides)))
        if known:
            number, record = known.pop(0)
            jobs.append(Job(number, tuple(overrides), record.status in DONE))
        else:
            jobs.append(Job(following, tuple(overrides)))
            following += 1
    return jobs


def outcome(sweep: Path, job: Job) -> Record:
    """What became of a job; `unfinished` if it never began."""
    return read_record(sweep / str(job.number)) or Record("unfinished", "")


def describe(sweep: Path, jobs: Sequence[Job]) -> str:
    """The jobs that did not finish, in one line: `3 (layer9: no such layer), 7 (killed, or still running)`."""
    parts: list[str] = []
    for job in jobs:
        record = outcome(sweep, job)
        parts.append(f"{job.number} ({record.error or 'killed, or still running'})")
    return ", ".join(parts)
