"""A published benchmark: its items come from local files or the Hugging Face hub."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import ClassVar, TypeVar

from introspect.benchmarks.base import SPLITS
from introspect.benchmarks.examples import MultiHopExample
from introspect.benchmarks.rows import Row, read_rows
from introspect.core.errors import InputError, first_line

T = TypeVar("T")
Files = Mapping[str, str | Path | None]

AUTO = "auto"
# The published part that a split is taken from, and that part's name on the hub.
_PARTS = {"train": "train", "validation": "train", "test": "test"}
_HUB_SPLITS = {"train": "train", "test": "validation"}

log = logging.getLogger(__name__)


class PublishedBenchmark(ABC):
    """A benchmark with two public parts, from which it makes three splits.

    The public validation (dev) part is our `test`: nobody tunes on it. `validation` is the end of the public train
    part, which `train` then lacks.

    Args:
        files: paths by part, `train` and `test`; a part that is given wins over the hub.
        hub_id: as `datasets.load_dataset` takes it; `auto` is where the benchmark is published, None means local files
            only.
        hub_config: its configuration on the hub; `auto` is the published one.
        revision: commit on the hub; None takes the newest.
        held_out: items of the train part that become `validation`, never more than a tenth of it.
    """

    name: str
    published_at: ClassVar[tuple[str, str | None]]
    """`hub_id` and `hub_config`."""

    def __init__(
        self,
        *,
        files: Files | None = None,
        hub_id: str | None = AUTO,
        hub_config: str | None = AUTO,
        revision: str | None = None,
        held_out: int = 200,
    ) -> None:
        if files is not None and not isinstance(files, Mapping):
            raise InputError(f"files: expected the keys 'train' and 'test', got {files!r}")
        self.files = dict(files or {})
        unknown = sorted(self.files.keys() - _HUB_SPLITS.keys())
        if unknown:
            raise InputError(f"files: unknown key {unknown[0]!r}, expected 'train' or 'test' (the public dev file)")
        if type(held_out) is not int or held_out < 0:
            raise InputError(f"held_out: expected a whole number of at least 0, got {held_out!r}")
        self.hub_id, self.hub_config = (
            published if given == AUTO else given
            for given, published in zip((hub_id, hub_config), self.published_at, strict=True)
        )
        self.revision, self.held_out = revision, held_out

    @abstractmethod
    def parse(self, row: Row) -> MultiHopExample:
        """Parse one item, in the layout of the published files or of the hub.

        Raises:
            InputError: a field is missing, empty or of the wrong type; the error names it.
        """

    def keep(self, row: Row) -> bool:
        """Whether an item belongs to the benchmark; the others are left out."""
        return True

    def load(self, split: str, limit: int | None = None) -> list[MultiHopExample]:
        """See `base.Benchmark`; what was tolerated in the published data is counted and logged.

        Raises:
            InputError: for an unknown split, a missing or malformed source, or an id that occurs twice.
        """
        if split not in SPLITS:
            raise InputError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InputError(f"limit: expected a whole number of at least 0, got {limit!r}")
        notes: Counter[str] = Counter()
        rows: Iterator[Row] = filter(self.keep, self._rows(_PARTS[split], notes))
        if split == "validation":
            rows = held_out_part(rows, self.held_out)
        elif split == "train":
            rows = training_part(rows, self.held_out)
        examples: dict[str, MultiHopExample] = {}
        places: dict[str, int] = {}
        for row in islice(rows, limit):
            example = self.parse(row)
            if example.id in examples:
                raise row.error("id", f"{example.id!r} is also the id of row {places[example.id]}")
            examples[example.id], places[example.id] = example, row.number
        if notes:
            counts = ", ".join(f"{count} x {note}" for note, count in sorted(notes.items()))
            log.warning("%s: tolerated in what was read: %s", self._origin(_PARTS[split]), counts)
        return list(examples.values())

    def _origin(self, part: str) -> str:
        path = self.files.get(part)
        return str(path) if path else f"{self.hub_id} ({_HUB_SPLITS[part]})"

    def _rows(self, part: str, notes: Counter[str]) -> Iterator[Row]:
        path = self.files.get(part)
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
            config = f" (config {self.hub_config!r})" if self.hub_config else ""
            raise InputError(
                f"cannot load {split!r} of {self.hub_id!r}{config}: {first_line(error)}; {remedy}"
            ) from error
        for number, values in enumerate(table, start=1):
            yield Row(values, self._origin(part), number, notes)


def training_part(rows: Iterable[T], held_out: int) -> Iterator[T]:
    """Give all rows but the last `min(held_out, a tenth)`, reading no further ahead than needed to know that."""
    ahead: deque[T] = deque()
    given = 0
    for seen, row in enumerate(rows, start=1):
        ahead.append(row)
        while given < seen - min(held_out, seen // 10):
            yield ahead.popleft()
            given += 1


def held_out_part(rows: Iterable[T], held_out: int) -> Iterator[T]:
    """Give the last `min(held_out, a tenth)` rows, in order."""
    seen = 0
    last: deque[T] = deque(maxlen=held_out)
    for row in rows:
        seen += 1
        last.append(row)
    count = min(held_out, seen // 10)
    return islice(last, len(last) - count, None)
