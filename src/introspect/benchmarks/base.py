"""What a benchmark is, and where the items of a published one come from: local files or the Hugging Face hub."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from introspect.benchmarks.examples import MultiHopExample
from introspect.benchmarks.rows import Row, read_rows
from introspect.core.errors import InputError

T = TypeVar("T")
Split = Literal["train", "validation", "test"]
Files = Mapping[str, str | Path | None]

SPLITS = ("train", "validation", "test")
# The published part that a split is taken from, and that part's name on the hub.
_PARTS = {"train": "train", "validation": "train", "test": "test"}
_HUB_SPLITS = {"train": "train", "test": "validation"}

log = logging.getLogger(__name__)


class Benchmark(Protocol):
    """A source of multi-hop questions."""

    name: str

    def load(self, split: str, limit: int | None = None) -> list[MultiHopExample]:
        """The first `limit` examples (all by default) of `train`, `validation` or `test`, always in the same order.

        Raises:
            InputError: for an unknown split, an unreachable source or a malformed item.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a published benchmark is read from, and how its two public parts make three splits.

    The public validation (dev) part is our `test`: nobody tunes on it. `validation` is the end of the public train
    part, which `train` then lacks.

    files: paths by part, `train` and `test`; a part that is given wins over the hub.
    hub_id, hub_config, revision: as `datasets.load_dataset` takes them; `hub_id` None means local files only.
    held_out: items of the train part that become `validation`, never more than a tenth of it.
    """

    files: Files | None
    hub_id: str | None
    hub_config: str | None
    revision: str | None
    held_out: int

    def __post_init__(self) -> None:
        if self.files is not None and not isinstance(self.files, Mapping):
            raise InputError(f"files: expected the keys 'train' and 'test', got {self.files!r}")
        unknown = sorted(set(self.files or ()) - set(_HUB_SPLITS))
        if unknown:
            raise InputError(f"files: unknown key {unknown[0]!r}, expected 'train' or 'test' (the public dev file)")
        if type(self.held_out) is not int or self.held_out < 0:
            raise InputError(f"held_out: expected a whole number of at least 0, got {self.held_out!r}")

    def load(
        self,
        split: str,
        limit: int | None,
        parse: Callable[[Row], MultiHopExample],
        keep: Callable[[Row], bool] = lambda row: True,
    ) -> list[MultiHopExample]:
        """The first `limit` examples of a split; rows that `keep` refuses are left out, counted and logged.

        Raises:
            InputError: for an unknown split, a missing or malformed source, or an id that occurs twice.
        """
        if split not in SPLITS:
            raise InputError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InputError(f"limit: expected a whole number of at least 0, got {limit!r}")
        notes: Counter[str] = Counter()
        rows = _kept(self._rows(_PARTS[split], notes), keep)
        if split == "validation":
            rows = held_out_part(rows, self.held_out)
        elif split == "train":
            rows = training_part(rows, self.held_out)
        examples = _parse_all(islice(rows, limit), parse)
        if notes:
            counts = ", ".join(f"{count} x {note}" for note, count in sorted(notes.items()))
            log.warning("%s: in what was read, put up with %s", self._origin(_PARTS[split]), counts)
        return examples

    def _origin(self, part: str) -> str:
        path = (self.files or {}).get(part)
        return str(path) if path else f"{self.hub_id} ({_HUB_SPLITS[part]})"

    def _rows(self, part: str, notes: Counter[str]) -> Iterator[Row]:
        path = (self.files or {}).get(part)
        return read_rows(path, notes) if path else self._hub_rows(part, notes)

    def _hub_rows(self, part: str, notes: Counter[str]) -> Iterator[Row]:
        remedy = f"pass the published file instead: data.files.{part}=PATH"
        if not self.hub_id:
            raise InputError(f"files.{part} is not given and there is no hub_id to fall back on; {remedy}")
        from datasets import load_dataset

        split = _HUB_SPLITS[part]
        try:
            table = load_dataset(self.hub_id, self.hub_config, split=split, revision=self.revision)
        # The loader raises a different type for every layer that can fail (HTTP, hub, format, config, split).
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            config = f" (config {self.hub_config!r})" if self.hub_config else ""
            raise InputError(f"cannot load {split!r} of {self.hub_id!r}{config}: {reason}; {remedy}") from error
        for number, values in enumerate(table, start=1):
            yield Row(values, self._origin(part), number, notes)


def training_part(rows: Iterable[T], held_out: int) -> Iterator[T]:
    """All rows but the last `min(held_out, a tenth)`, reading no further ahead than needed to know that."""
    ahead: deque[T] = deque()
    given = 0
    for seen, row in enumerate(rows, start=1):
        ahead.append(row)
        while given < seen - min(held_out, seen // 10):
            yield ahead.popleft()
            given += 1


def held_out_part(rows: Iterable[T], held_out: int) -> Iterator[T]:
    """The last `min(held_out, a tenth)` rows, in order."""
    seen = 0
    last: deque[T] = deque(maxlen=held_out)
    for row in rows:
        seen += 1
        last.append(row)
    share = min(held_out, seen // 10)
    return islice(last, len(last) - share, None)


def _kept(rows: Iterable[Row], keep: Callable[[Row], bool]) -> Iterator[Row]:
    for row in rows:
        if keep(row):
            yield row


def _parse_all(rows: Iterable[Row], parse: Callable[[Row], MultiHopExample]) -> list[MultiHopExample]:
    examples, places = [], dict[str, int]()
    for row in rows:
        example = parse(row)
        if example.id in places:
            raise row.error("id", f"{example.id!r} is also the id of row {places[example.id]}")
        places[example.id] = row.number
        examples.append(example)
    return examples
