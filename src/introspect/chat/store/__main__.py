"""`python -m introspect.chat.store`: merge stores, export one, or list failures."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from introspect.chat.store.database import Failure, ResponseStore
from introspect.chat.store.export import export
from introspect.core.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status, 2 for an input error."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m introspect.chat.store", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    merging = commands.add_parser("merge", help="copy the responses of other stores; merging twice changes nothing")
    merging.add_argument("store", type=Path, help="the store to merge into; created if absent")
    merging.add_argument("sources", type=Path, nargs="+", help="stores that are read")
    merging.set_defaults(run=_merge)

    exporting = commands.add_parser("export", help="write the responses as a table")
    exporting.add_argument("store", type=Path)
    exporting.add_argument("path", type=Path, help="*.parquet, or a folder for datasets.load_from_disk")
    exporting.add_argument("--model", help="only responses of the model of this name")
    exporting.set_defaults(run=_export)

    failing = commands.add_parser("failures", help="list the requests without a response")
    failing.add_argument("store", type=Path)
    failing.add_argument("--reason", help="only those that failed for this reason")
    failing.set_defaults(run=_list_failures)
    return parser


def _merge(options: argparse.Namespace) -> int:
    with ResponseStore(options.store) as store:
        for source in options.sources:
            answered, failed = store.merge(source)
            _say(f"{source}: {answered} responses and {failed} failures are new")
        _say(f"{options.store}: {len(store)} responses, {len(store.failures())} failures")
    return 0


def _export(options: argparse.Namespace) -> int:
    with _existing(options.store) as store:
        _say(f"{options.path}: {export(store, options.path, options.model)} responses")
    return 0


def _list_failures(options: argparse.Namespace) -> int:
    with _existing(options.store) as store:
        found = [failure for failure in store.failures() if options.reason in (None, failure.reason)]
    for failure in found:
        _say(_line(failure))
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(f.reason for f in found).most_common())
    _say(f"{len(found)} failures{': ' if reasons else ''}{reasons}")
    return 0


def _line(failure: Failure) -> str:
    request, identity = json.loads(failure.request), json.loads(failure.model)
    attempts = f"{failure.attempts} attempt{'s' if failure.attempts > 1 else ''}"
    return (
        f"{failure.created}  {identity.get('model')}  {request['id']}  {failure.reason}, {attempts}: {failure.detail}"
    )


def _existing(path: Path) -> ResponseStore:
    if not path.is_file():
        raise InputError(f"{path}: no such response store")
    return ResponseStore(path)


def _say(line: str) -> None:
    print(line)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
