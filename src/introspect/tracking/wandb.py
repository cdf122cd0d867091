"""Weights & Biases: online for who is logged in, offline for everyone else, and never a question at the prompt."""

from __future__ import annotations

import logging
import netrc
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from introspect.core.run_logger import RunLogger

log = logging.getLogger(__name__)


def is_logged_in() -> bool:
    """Whether this machine has a key for W&B, in WANDB_API_KEY or in the netrc file; asks no server."""
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


# W&B's own servers, by the names that `wandb login` has written into netrc files.
HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")

# Seconds that a server may take: to answer at the start, and at the end for what it has not got yet.
PATIENCE, FAREWELL = 60.0, 600.0

_RUN_FOLDER = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-(?P<id>\w+)")


def run_folders(path: str | Path) -> list[Path]:
    """The W&B folders of the run that a checkpoint belongs to, in the order of their times; none without one."""
    for parent in list(Path(path).absolute().parents)[:3]:
        found = [place for place in (parent / "wandb").glob("*run-*") if _RUN_FOLDER.fullmatch(place.name)]
        if found:
            return sorted(found, key=lambda place: place.name.removeprefix("offline-"))
    return []


def _id_of(path: str | Path | None) -> str | None:
    """The id of the W&B run that a checkpoint belongs to, to go on with it; None without one."""
    folders = run_folders(path) if path else []
    match = _RUN_FOLDER.fullmatch(folders[-1].name) if folders else None
    return match["id"] if match else None


def _sweep() -> str | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return Path(HydraConfig.get().sweep.dir).name
    return None


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
    """A Lightning logger for W&B that works without an account.

    Args:
        project: the project at W&B.
        save_dir: the run's files lie in `<save_dir>/wandb`.
        name, group, job_type, tags, notes: what the run is found by.
        sweep: name of the sweep that it is a part of, whose runs have a group of their own, `<group> <sweep>`; None
            takes Hydra's, if this is one of several runs.
        offline: True never connects and False always does; None connects only if this machine is logged in.
            WANDB_MODE, where it is set, decides instead.
        id: of a run that is to be continued.
        continues: a checkpoint, whose run is continued; its id is in the names of that run's folders.
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
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    return RunLogger(
        project=project,
        save_dir=save_dir,
        name=name,
        group=" ".join(dict.fromkeys(filter(None, [group, sweep or _sweep()]))) or None,
        job_type=job_type,
        tags=list(tags),
        notes=notes,
        id=id or _id_of(continues),
        log_model=log_model if mode == "online" else False,
        # Not Lightning's `offline`, which sets WANDB_MODE for all that follows in this process.
        mode=mode,
        # Our own closing line says where the run is; wandb's summary would repeat the tables.
        settings=wandb.Settings(quiet=True, init_timeout=PATIENCE, finish_timeout=FAREWELL),
        **settings,
    )


def finish(failed: bool = False) -> None:
    """Close the W&B run of this process, if there is one, and say how to upload it if it is offline.

    Without this, the next run of a sweep would be written into the same W&B run.
    """
    import sys

    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    folder, is_offline = Path(wandb.run.dir).parent, wandb.run.offline
    run_id = wandb.run.id
    wandb.finish(exit_code=int(failed))
    if is_offline:
        # Parts of one run have to be uploaded together.
        parts = sorted(place for place in folder.parent.glob(f"*run-*-{run_id}"))
        log.info("upload this run to W&B with: wandb sync %s", " ".join(map(str, parts)))
