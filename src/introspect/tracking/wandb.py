"""Weights & Biases: online for who is logged in, offline for everyone else, and never a question at the prompt."""

from __future__ import annotations

import logging
import netrc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)


def is_logged_in() -> bool:
    """Whether this machine has a key for W&B, in WANDB_API_KEY or in the netrc file; asks no server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    given = os.environ.get("NETRC")
    for path in [Path(given)] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(path).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


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
    offline: bool | None = None,
    id: str | None = None,  # as W&B calls it
    log_model: Literal["all"] | bool = False,
    **settings: Any,
) -> WandbLogger:
    """A Lightning logger for W&B that works without an account.

    Args:
        project: the project at W&B.
        save_dir: the run's files lie in `<save_dir>/wandb`.
        name, group, job_type, tags: what the run is found by.
        sweep: name of the sweep that it is a part of, whose runs have a group of their own, `<group> <sweep>`; None
            takes Hydra's, if this is one of several runs.
        offline: True never connects and False always does; None connects only if this machine is logged in.
            WANDB_MODE, where it is set, decides instead.
        id: of a run that is to be continued.
        log_model: upload checkpoints at the end, or `all` of them as they are saved; needs a connection.
        settings: further arguments of `wandb.init`.
    """
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    mode = os.environ.get("WANDB_MODE")
    if mode is None:
        connect = is_logged_in() if offline is None else not offline
        mode = "online" if connect else "offline"
        if offline is None and not connect:
            log.info("not logged in to W&B: this run is kept offline (`wandb login` changes that for the next)")
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        project=project,
        save_dir=save_dir,
        name=name,
        group=" ".join(filter(None, [group, sweep or _sweep()])) or None,
        job_type=job_type,
        tags=list(tags),
        id=id,
        log_model=log_model if mode == "online" else False,
        # Not Lightning's `offline`, which sets WANDB_MODE for all that follows in this process.
        mode=mode,
        # Our own closing line says where the run is; wandb's summary would repeat the tables.
        settings=wandb.Settings(quiet=True),
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
    wandb.finish(exit_code=int(failed))
    if is_offline:
        log.info("upload this run to W&B with: wandb sync %s", folder)
