"""Commands next to dissect.py: `python -m introspect.dissection compare FOLDER …`, `stability …`, `export FOLDER`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from introspect.core import command
from introspect.core.errors import InputError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; None takes the arguments of the command line."""
    chosen = _parser().parse_args(arguments)
    chosen.run(chosen)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m introspect.dissection", description="Compare and export dissections.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    compare = commands.add_parser("compare", help="saved dissections side by side, as a table and in Markdown")
    compare.add_argument("folders", nargs="+", metavar="FOLDER", type=Path, help="holds a dissection.json")
    compare.add_argument("--threshold", type=float, help="of the IoU, for all; each dissection's own by default")
    compare.add_argument("--seed", type=int, default=0, help="of the intervals (0)")
    compare.set_defaults(run=_compare)
    stability = commands.add_parser("stability", help="how far saved dissections, say of several seeds, agree")
    stability.add_argument("folders", nargs="+", metavar="FOLDER", type=Path, help="holds a dissection.json")
    stability.add_argument("--threshold", type=float, help="of the IoU, for all; each dissection's own by default")
    stability.add_argument("--output", type=Path, required=True, help="folder for numbers, tables and the figure")
    stability.set_defaults(run=_stability)
    export = commands.add_parser("export", help="shapeworld as a folder in Broden's layout")
    export.add_argument("folder", metavar="FOLDER", type=Path, help="to be made, or empty")
    export.add_argument("--images", type=int, default=1000, help="how many (1000)")
    export.add_argument("--side", type=int, default=48, help="height and width, pixels (48)")
    export.add_argument("--seed", type=int, default=0, help="which images (0)")
    export.add_argument("--split", default="test", help="train, validation or test (test)")
    export.set_defaults(run=_export)
    return parser


def _compare(chosen: Namespace) -> None:
    import rich

    from introspect.dissection.comparison import compare_dissections
    from introspect.dissection.files import load
    from introspect.dissection.options import Rules

    if chosen.threshold is not None:
        Rules(iou_threshold=chosen.threshold)
    names = _short_names(chosen.folders)
    found = compare_dissections(
        {name: load(folder) for name, folder in zip(names, chosen.folders, strict=True)},
        threshold=chosen.threshold,
        seed=chosen.seed,
    )
    rich.print(found.table())
    sys.stdout.write(found.markdown())


def _stability(chosen: Namespace) -> None:
    from introspect.dissection.files import load
    from introspect.dissection.measures.base import library, publish
    from introspect.dissection.measures.stability import StabilityResult
    from introspect.dissection.options import Rules

    library("matplotlib", "figures are drawn by matplotlib")
    if chosen.threshold is not None:
        Rules(iou_threshold=chosen.threshold)
    _short_names(chosen.folders)  # refuses one that is named twice
    found = tuple(load(folder) for folder in chosen.folders)
    publish(StabilityResult({"dissections": found}, chosen.threshold), chosen.output)


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders without their common beginning and end.

    Raises:
        InputError: one is named twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise InputError("compare: a folder is named twice")
    if len(parts) == 1:
        return [folders[0].name]
    shortest = min(map(len, parts))
    start = next((i for i in range(shortest) if len({part[i] for part in parts}) > 1), shortest - 1)
    stop = next((i for i in range(shortest - start) if len({part[-1 - i] for part in parts}) > 1), 0)
    return ["/".join(part[start : len(part) - stop]) for part in parts]


def _export(chosen: Namespace) -> None:
    from introspect.dissection.concepts.shapeworld import ShapeworldConcepts, export

    concepts = ShapeworldConcepts(size=chosen.images, seed=chosen.seed, split=chosen.split, side=chosen.side)
    export(concepts, chosen.folder)
    sys.stdout.write(f"{len(concepts)} images: python dissect.py concepts=broden concepts.root={chosen.folder} …\n")


if __name__ == "__main__":
    command.run(main)
