"""Reading back what W&B keeps of an offline run: the records of its `.wandb` file, as its own protocol defines them.

The file is a log of blocks as in LevelDB, after a header of 7 bytes: each piece has a checksum (4 bytes), a length (2)
and a type (1: whole, 2: first, 3: middle, 4: last), and none crosses a block's end.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER, IDENT = 32768, 7, 7


def records(run: Path) -> Iterator[Any]:
    """The records of a run's folder, in their order."""
    from wandb.proto.wandb_internal_pb2 import Record

    [file] = run.glob("*.wandb")
    data, at, parts = file.read_bytes(), IDENT, b""
    assert data[:4] == b":W&B"
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):
            yield Record.FromString(parts)
            parts = b""
        elif kind not in (2, 3):
            break  # the padding of the last block


class Offline:
    """An offline run as it is on disk."""

    def __init__(self, run: Path) -> None:
        self.folder = run
        self.records: list[Any] = []
        # W&B's service may still be writing when the run has finished: its last word is the exit.
        until = time.monotonic() + 30
        while not self.of("exit") and time.monotonic() < until:
            self.records = list(records(run))
            time.sleep(0.1)

    def of(self, kind: str) -> list[Any]:
        return [getattr(r, kind) for r in self.records if r.WhichOneof("record_type") == kind]

    @property
    def run(self) -> Any:
        return self.of("run")[-1]

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for change in [self.of("run")[0].config, *self.of("config")]:
            found |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in change.update}
        return found

    @property
    def history(self) -> list[dict[str, Any]]:
        return [
            {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
            for row in self.of("history")
        ]

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for change in self.of("summary"):
            found |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in change.update}
        return found
