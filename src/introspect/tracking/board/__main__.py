"""`python -m introspect.tracking.board logs/`: every run under a folder on one page, logs/board.html."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from introspect.core import command

NAME = "board.html"
ROLLOUTS = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page that the arguments name; None takes those of the command line."""
    parser = ArgumentParser(prog="python -m introspect.tracking.board", description="All runs of a folder on one page.")
    parser.add_argument("folder", nargs="?", default="logs", type=Path, metavar="FOLDER", help="holds the runs (logs)")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"the page (FOLDER/{NAME})")
    parser.add_argument(
        "--rollouts", type=int, default=ROLLOUTS, metavar="N", help=f"of each run and side in the viewer ({ROLLOUTS})"
    )
    chosen = parser.parse_args(arguments)
    from introspect.tracking.board.page import write_board

    path = chosen.output or chosen.folder / NAME
    write_board(chosen.folder, path, rollouts=chosen.rollouts)
    sys.stdout.write(f"open {path} in a browser ({path.stat().st_size / 2**20:.1f} MB)\n")


if __name__ == "__main__":
    command.run(main)
