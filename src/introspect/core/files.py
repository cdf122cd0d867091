"""Whole-or-nothing writes: another command never reads half a file, and a crash keeps what was there before."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

# What a killed process may leave behind; nothing that collects files takes it for a result.
PARTIAL = ".partial"


@contextmanager
def replacing(path: str | Path, *, locked: bool = False) -> Iterator[Path]:
    """Give a block a temporary file to write, which takes the place of `path` when the block ends without an error.

    The temporary file is in the same folder, which is made if it is absent, and has a name of its own: several
    processes, also on several machines, may write the same file, and the last one wins.

    Args:
        path: the file to write or replace.
        locked: no other process writes the file now: the temporary file has the same name each time, so that the next
            process writes over what a killed one has left. For large files.

    Yields:
        The temporary file, which the block must write and close.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}{'' if locked else f'.{uuid4().hex[:12]}'}{PARTIAL}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, with the line ends that it has."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV with Unix line ends."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_json(path: str | Path, value: Any, *, indent: int | None = 2, allow_nan: bool = True) -> None:
    """Write a value as JSON, with non-ASCII characters as they are.

    Args:
        path: the file.
        value: what the `json` module takes.
        indent: blanks per level; None writes one line.
        allow_nan: whether NaN and infinity are written, which JSON itself does not have; else they are a ValueError.
    """
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=allow_nan) + "\n")
