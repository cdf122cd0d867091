"""The files of a run and its inputs as W&B artifacts: traces -> student -> evaluation.

An artifact is named by its content. So a run knows the name of its inputs without a server, also offline: the student
of an evaluation is the one that a training has logged, on whatever machine.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from introspect.core.files import PARTIAL

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from wandb import Artifact

log = logging.getLogger(__name__)

# Folders of a run, by the kind of artifact in them.
OUTPUTS = ("student", "rollouts", "judgments", "dissection")
# Only the traces: the manifest next to them also has counts of each training.
TRACES = Path("traces", "traces.parquet")
MEGABYTE = 1 << 20


def log_artifacts(
    loggers: Iterable[Logger], folder: str | Path, *, inputs: Iterable[str | Path | None] = (), limit: int = 100
) -> None:
    """Log a run's students, rollouts, judgments, dissections and checkpoints to W&B, and the inputs that it has used.

    Traces that the run has made are among its inputs. Only the first process may call it.

    Args:
        loggers: the loggers of the run; others than W&B's are skipped.
        folder: the folder of the run.
        inputs: traces, students and checkpoints that the run has used; those that are not on this disk are skipped.
        limit: size of an artifact, in megabytes, up to which its files are uploaded; of a larger one, W&B gets paths,
            sizes and checksums. 0 logs no artifacts.
    """
    from introspect.core.run_logger import RunLogger

    trackers = [logger for logger in loggers if isinstance(logger, RunLogger) and logger.is_kept]
    if not trackers or limit == 0:
        return
    folder = Path(folder)
    used = [place.resolve() for place in map(_place, (folder / TRACES, *inputs)) if place is not None]
    made = {folder / kind: kind for kind in OUTPUTS if _files(folder / kind)}
    made |= {layer.parent: "dissection" for layer in folder.glob("*/dissection.json")}
    made |= {path: "checkpoint" for path in (folder / "checkpoints").glob("*.ckpt") if path.stem != "resume"}
    for tracker in trackers:
        run: Any = tracker.experiment
        for place in dict.fromkeys(used):
            # What `use_artifact` does with a new artifact, but without waiting for a server, and also offline.
            run._log_artifact(artifact(place, kind_of(place), limit), is_user_created=True, use_after_commit=True)
        for place, kind in made.items():
            run.log_artifact(artifact(place, kind, limit))


def _place(path: str | Path | None) -> Path | None:
    """Return the path of an input: a folder or a file with content; None if it is not on this disk."""
    if path is None:
        return None
    place = Path(path)
    if (place / "rollouts").is_dir():  # a run, of which the rollouts are used
        place = place / "rollouts"
    return place if _files(place) else None


def kind_of(place: Path) -> str:
    """Return the kind of an input, by its name and content."""
    if place.suffix == ".ckpt":
        return "checkpoint"
    if place.name.startswith("traces"):
        return "traces"
    return "rollouts" if place.name == "rollouts" or place.suffix == ".parquet" else "student"


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(path for path in place.rglob("*") if path.is_file() and path.suffix != PARTIAL)


def artifact(place: Path, kind: str, limit: int) -> Artifact:
    """Build the artifact of a file or folder, named by its kind and content.

    Args:
        place: the file or folder.
        kind: type of the artifact; checkpoints are never uploaded here, but by `log_model`.
        limit: see `log_artifacts`.
    """
    import wandb

    root = place if place.is_dir() else place.parent
    files = _files(place)
    size = sum(path.stat().st_size for path in files)
    made = wandb.Artifact(
        f"{kind}-{digest(root, files)[:12]}", type=kind, metadata={"place": str(place), "bytes": size}
    )
    for path in files:
        name = path.relative_to(root).as_posix()
        if kind != "checkpoint" and size <= limit * MEGABYTE:
            # The files of a run do not change: no copy is needed.
            made.add_file(str(path), name=name, policy="immutable", skip_cache=True)
        else:
            made.add_reference(path.resolve().as_uri(), name=name)
    return made


def digest(root: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 of files and of their names under `root`, in hexadecimal digits."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + content)
    return total.hexdigest()
