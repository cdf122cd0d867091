"""The jobs of a sweep: their settings and their outcomes, as files in the sweep's folder.

A job is known by its settings, not by its number: the same sweep, started again, finds its finished jobs wherever they
are, and a setting that changed makes another job.
"""

from __future__ import annotations

import hashlib
import json
import logging
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

log = logging.getLogger(__name__)

RECORD = "job.json"
Status = Literal["finished", "pruned", "failed", "unfinished"]
DONE: tuple[Status, ...] = ("finished", "pruned")


@dataclass(frozen=True, slots=True)
class Record:
    """The outcome of a job.

    Attributes:
        status: `unfinished` if it has started and left no outcome.
        identity: fingerprint of its settings, see `identity`.
        value: what it returned for the search to optimize; None if that was no finite number.
        error: of a failed one, in one line.
    """

    status: Status
    identity: str
    value: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job of a sweep.

    Attributes:
        number: names its folder.
        overrides: its command line.
        is_done: whether it was run before and needs no other run.
    """

    number: int
    overrides: tuple[str, ...]
    is_done: bool = False


def identity(config: DictConfig) -> str:
    """Return a fingerprint of a job's settings, without Hydra's part and without secrets.

    Interpolations stay unresolved: the path of the job's files is no setting of it.
    """
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    content.pop("hydra", None)
    return hashlib.sha256(json.dumps(redact(content), sort_keys=True, default=str).encode()).hexdigest()


def finish_job(config: DictConfig, returned: JobReturn) -> None:
    """Write the outcome of a job to its folder, and a bug's traceback to its log.

    Args:
        config: config of the job, with Hydra's part.
        returned: result of the job; its exception is replaced if another process could not read it.
    """
    result = returned._return_value
    error: str | None = None
    if isinstance(result, Pruned):
        status: Status = "pruned"
    elif returned.status == JobStatus.COMPLETED:
        status = "finished"
    else:
        status = "failed"
        if isinstance(result, Exception):
            error = failure(result)
            if explain(result) is None:
                log.error("this job failed", exc_info=result)
            returned.return_value = portable(result)
    value = float(result) if isinstance(result, int | float) and math.isfinite(result) else None
    record = Record(status, identity(config), value, error)
    write_json(Path(config.hydra.runtime.output_dir) / RECORD, asdict(record))


def failure(error: BaseException) -> str:
    """Return an exception as one line of at most 300 characters, with its type unless it is a mistake of the user."""
    return one_line(explain(error) or f"{type(error).__name__}: {error}", 300)


def portable(error: Exception) -> Exception:
    """Return the exception, or its line if it cannot be pickled, which would end the sweep in another process."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - what this process has just written
    except Exception:  # noqa: BLE001 - anything may go wrong in the pickling of another's class
        return RuntimeError(failure(error))
    return error


def read_record(folder: Path) -> Record | None:
    """Return the outcome of the job of a folder; None if the folder is not that of a job.

    A folder without a readable record is that of a job which was killed, or which is running elsewhere.
    """
    settings = folder / ".hydra" / "config.yaml"
    if not settings.is_file():
        return None
    try:
        return Record(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        loaded = OmegaConf.load(settings)
        assert isinstance(loaded, DictConfig)
        return Record("unfinished", identity(loaded))


def folders(sweep: Path) -> list[Path]:
    """Return the folders of a sweep's jobs: 2 before 10."""
    return sorted((path.parent for path in sweep.glob("*/.hydra")), key=lambda path: path.name.zfill(6))


def plan(compose: Callable[[int, Sequence[str]], DictConfig], batch: Sequence[Sequence[str]], sweep: Path) -> list[Job]:
    """Compose every job of a sweep and number it: a job in the folder keeps its number, a new one gets the next.

    Args:
        compose: number and overrides of a job to its config; raises InputError for a config that cannot work.
        batch: the overrides of each job.
        sweep: the folder of the sweep, which may hold jobs already.

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
    """Return the outcome of a job; `unfinished` if it never started."""
    return read_record(sweep / str(job.number)) or Record("unfinished", "")


def describe(sweep: Path, jobs: Sequence[Job]) -> str:
    """Describe the jobs that did not finish in one line: `3 (layer9: no such layer), 7 (killed, or still running)`."""
    errors = {job.number: outcome(sweep, job).error or "killed, or still running" for job in jobs}
    return ", ".join(f"{number} ({error})" for number, error in errors.items())
