"""The offline dashboard: all runs of a folder on one page, which needs neither a server nor a network."""

from __future__ import annotations

from pathlib import Path

from introspect.core.errors import InputError

NAME = "board.html"
ROLLOUTS = 100


def write_board(root: str | Path, path: str | Path | None = None, *, rollouts: int = ROLLOUTS) -> Path:
    """Write a page about every run in and under a folder.

    Args:
        root: the folder, usually `logs`; or a run's own.
        path: of the page; None is `board.html` in the folder.
        rollouts: of each run and side in the trace viewer at most.

    Returns:
        The page's path.

    Raises:
        InputError: there is no such folder, or no run in it.
    """
    from introspect.core.progress import track
    from introspect.tracking.board.page import write_page
    from introspect.tracking.board.runs import find_runs, read_run

    root = Path(root)
    path = root / NAME if path is None else Path(path)
    if rollouts < 1:
        raise InputError(f"--rollouts is {rollouts}, expected 1 or more")
    folders = list(find_runs(root))
    if not folders:
        raise InputError(f"{root}: there is no run in it; a run's folder holds .hydra, metrics.json, csv or rollouts")
    read = (read_run(folder, root, rollouts) for folder in folders)
    write_page(track(read, description="runs", total=len(folders)), root, path)
    return path
