"""The loggers of a run: Weights & Biases, online or offline but never with a prompt, and a table on disk."""

from __future__ import annotations

import csv
import logging
import netrc
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    from introspect.core.run_logger import RunLogger

log = logging.getLogger(__name__)

# W&B's own servers, by the names that `wandb login` has written into netrc files.
HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
INIT_TIMEOUT, FINISH_TIMEOUT = 60.0, 600.0  # seconds: for the first answer of a server, and for the last uploads

_RUN_FOLDER = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-(?P<id>\w+)")


class CurvesLogger(CSVLogger):
    """Lightning's CSV logger, which also continues the table of another process.

    Under `ddp_spawn`, training and test run in processes that are started separately: the second one finds a table
    with columns that it has never logged.
    """

    @rank_zero_only
    def save(self) -> None:
        """Write what was logged since the last call; columns that the file already has stay."""
        writer = self.experiment
        path = Path(writer.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                header = next(csv.reader(file), [])
            writer.metrics_keys = sorted({*writer.metrics_keys, *header})
        super().save()


def is_logged_in() -> bool:
    """Return whether this machine has a key for W&B, in WANDB_API_KEY or in the netrc file; contacts no server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    address = os.environ.get("WANDB_BASE_URL")
    hosts = [urlsplit(address).hostname or ""] if address else HOSTS
    given = os.environ.get("NETRC")
    for path in [Path(given)] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if any(map(netrc.netrc(path).authenticators, hosts)):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def run_folders(path: str | Path) -> list[Path]:
    """Return the W&B folders of the run that a checkpoint belongs to, oldest first; none without one."""
    for parent in list(Path(path).absolute().parents)[:3]:
        found = [place for place in (parent / "wandb").glob("*run-*") if _RUN_FOLDER.fullmatch(place.name)]
        if found:
            return sorted(found, key=lambda place: place.name.removeprefix("offline-"))
    return []


def wandb_logger(
    *,
    project: str,
    save_dir: str | Path,
    name: str | None = None,
    group: str | None = None,
    sweep: str | None = None,
    job_type: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    offline: bool | None = None,
    id: str | None = None,  # as W&B calls it
    continues: str | Path | None = None,
    log_model: Literal["all"] | bool = False,
    **settings: Any,
) -> RunLogger:
    """Create a Lightning logger for W&B that works without an account.

    Args:
        project: the project at W&B.
        save_dir: the run's files lie in `<save_dir>/wandb`.
        name: name of the run; None lets W&B choose one.
        group: name of the group of runs that it belongs to.
        sweep: name of the sweep that it is a part of, whose runs have a group of their own, `<group> <sweep>`; None
            takes Hydra's, if this is one of several runs.
        job_type: kind of the run, such as `train`.
        tags: words to find the run by.
        notes: a sentence about the run.
        offline: True never connects and False always does; None connects only if this machine is logged in.
            WANDB_MODE, where it is set, decides instead.
        id: id of a run that is continued.
        continues: a checkpoint whose run is continued; its id is in the names of that run's folders.
        log_model: upload checkpoints at the end, or `all` of them as they are saved; needs a connection.
        settings: further arguments of `wandb.init`, and `axes` and `summaries` of `RunLogger`.
    """
    import wandb

    from introspect.core.run_logger import RunLogger

    mode = os.environ.get("WANDB_MODE")
    if mode is None:
        connect = is_logged_in() if offline is None else not offline
        mode = "online" if connect else "offline"
        if offline is None and not connect:
            log.info("not logged in to W&B: this run is kept offline (`wandb login` changes that for the next)")
    folders = run_folders(continues) if continues and id is None else []
    known = _RUN_FOLDER.fullmatch(folders[-1].name) if folders else None
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    return RunLogger(
        project=project,
        save_dir=save_dir,
        name=name,
        group=" ".join(dict.fromkeys(filter(None, [group, sweep or _sweep()]))) or None,
        job_type=job_type,
        tags=list(tags),
        notes=notes,
        id=known["id"] if known else id,
        log_model=log_model if mode == "online" else False,
        # Not Lightning's `offline`, which sets WANDB_MODE for all that follows in this process.
        mode=mode,
        # Our own last line says where the run is; wandb's summary would repeat the tables.
        settings=wandb.Settings(quiet=True, init_timeout=INIT_TIMEOUT, finish_timeout=FINISH_TIMEOUT),
        **settings,
    )


def _sweep() -> str | None:
    """Return the name of the sweep that this run is a job of; None without one."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return Path(HydraConfig.get().sweep.dir).name
    return None


def finish_wandb(failed: bool = False) -> None:
    """Close the W&B run of this process, if there is one, and log how to upload it if it is offline.

    Without this, the next run of a sweep would be written into the same W&B run.
    """
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    folder, is_offline = Path(wandb.run.dir).parent, wandb.run.offline
    run_id = wandb.run.id
    wandb.finish(exit_code=int(failed))
    if is_offline:
        # Parts of one run have to be uploaded together.
        parts = sorted(folder.parent.glob(f"*run-*-{run_id}"))
        log.info("upload this run to W&B with: wandb sync %s", " ".join(map(str, parts)))
