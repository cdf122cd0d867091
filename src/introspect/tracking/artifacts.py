"""What a run leaves behind and what it was made from, as W&B artifacts: traces -> student -> evaluation.

An artifact is named by its content. So a run knows the name of what it uses without asking a server, offline too: the
student that an evaluation measures is the one that some training has logged, wherever that was.
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

# Places in a run's folder, by what stands there.
OUTPUTS = {"student": "student", "rollouts": "rollouts", "judgments": "judgments", "dissection": "dissection"}
# The traces alone: the manifest beside them also counts what each training has made of them.
TRACES = Path("traces", "traces.parquet")
MEGABYTE = 1 << 20


def log_artifacts(
    loggers: Iterable[Logger], folder: str | Path, *, inputs: Iterable[str | Path | None] = (), limit: int = 100
) -> None:
    """Tell W&B of a run's traces, students, rollouts, judgments and dissections, and of what it was made from.

    Traces that the run has made are among what its student was made from. Only the first process may call it.

    Args:
        loggers: of the run; those that are not W&B's are passed over.
        folder: of the run.
        inputs: traces, students and checkpoints that the run has used; what is not on this disk is passed over.
        limit: megabytes of an artifact up to which its files are uploaded; of a larger one, W&B gets the places, sizes
            and checksums. 0 logs no artifacts.
    """
    from introspect.core.run_logger import RunLogger

    trackers = [logger for logger in loggers if isinstance(logger, RunLogger) and logger.is_kept]
    if not trackers or limit == 0:
        return
    folder = Path(folder)
    used = [place.resolve() for place in map(_place, (folder / TRACES, *inputs)) if place is not None]
    made = {folder / name: kind for name, kind in OUTPUTS.items() if _files(folder / name)}
    made |= {layer.parent: "dissection" for layer in folder.glob("*/dissection.json")}
    made |= {path: "checkpoint" for path in (folder / "checkpoints").glob("*.ckpt") if path.stem != "resume"}
    for tracker in trackers:
        run: Any = tracker.experiment
        for place in dict.fromkeys(used):
            # What `use_artifact` does with a new artifact, but without waiting for a server, and offline too.
            run._log_artifact(_used(place, limit), is_user_created=True, use_after_commit=True)
        for place, kind in made.items():
            # Checkpoints are uploaded by `log_model`.
            run.log_artifact(artifact(place, kind, -1 if kind == "checkpoint" else limit))


def _used(place: Path, limit: int) -> Artifact:
    kind = kind_of(place)
    return artifact(place, kind, -1 if kind == "checkpoint" else limit)


def _place(path: str | Path | None) -> Path | None:
    """Where something that was used lies: a folder or a file that has content."""
    if path is None:
        return None
    place = Path(path)
    if (place / "rollouts").is_dir():  # a run, of which the rollouts are used
        place = place / "rollouts"
    return place if _files(place) else None


def kind_of(place: Path) -> str:
    """What something that was used is, by its name and content."""
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
    """A file or folder as an artifact, named by its kind and content.

    Args:
        place: of it.
        kind: type of the artifact.
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
        if size <= limit * MEGABYTE:
            # The files of a run stay as they are: no copy is needed.
            made.add_file(str(path), name=name, policy="immutable", skip_cache=True)
        else:
            made.add_reference(path.resolve().as_uri(), name=name)
    return made


def digest(root: Path, files: Iterable[Path]) -> str:
    """SHA-256 of files and of their names under `root`, in hexadecimal digits."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + content)
    return total.hexdigest()
