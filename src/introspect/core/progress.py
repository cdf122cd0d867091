"""Progress of every long loop outside the trainer: rollouts, trace synthesis, judging."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from datetime import timedelta
from typing import Protocol, TypeVar, runtime_checkable

T = TypeVar("T")

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_NOTES = 0.5

Note = Callable[[], str]


@runtime_checkable
class Noted(Protocol):
    """Items that have something to say about their progress."""

    def note(self) -> str:
        """Return it as a short text."""
        ...


def is_rank_zero() -> bool:
    """Return whether this process reports, among those that train together."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return int(next((rank for rank in ranks if rank), "0")) == 0


def track(items: Iterable[T], *, description: str, total: int | None = None, note: Note | None = None) -> Iterator[T]:
    """Yield `items` and show how many there were so far.

    In a terminal it is a bar with the expected end; elsewhere (a log file, a batch job) one log line every 15 seconds
    and one at the end. Only the first of several processes reports.

    Args:
        items: passed through in their order.
        description: what the items are, e.g. `student drafts`.
        total: number of items; by default their length, or unknown.
        note: returns further text, such as the costs so far; called repeatedly. By default that of `items`, if they are
            `Noted`.
    """
    if note is None and isinstance(items, Noted):
        note = items.note
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not is_rank_zero():
        yield from items
        return
    import rich

    show = _bar if rich.get_console().is_terminal else _lines
    yield from show(items, description, total, note or str)


def _bar(items: Iterable[T], description: str, total: int | None, note: Note) -> Iterator[T]:
    import rich
    from rich import progress as columns

    # The global console, so that a bar can appear below the trainer's own.
    bar = columns.Progress(
        columns.TextColumn("{task.description}"),
        columns.BarColumn(),
        columns.MofNCompleteColumn(),
        columns.TimeElapsedColumn(),
        columns.TimeRemainingColumn(),
        columns.TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=rich.get_console(),
    )
    with bar:
        task = bar.add_task(description, total=total, note=note())
        noted = time.monotonic()
        for item in items:
            bar.advance(task)
            if (now := time.monotonic()) - noted >= SECONDS_BETWEEN_NOTES:
                noted = now
                bar.update(task, note=note())
            yield item
        bar.update(task, note=note())


def _lines(items: Iterable[T], description: str, total: int | None, note: Note) -> Iterator[T]:
    start = reported = time.monotonic()
    done = 0
    for item in items:
        done += 1
        now = time.monotonic()
        if now - reported >= SECONDS_BETWEEN_LINES:
            reported = now
            log.info(_line(description, done, total, now - start, note()))
        yield item
    log.info(_line(description, done, total, time.monotonic() - start, note()))


def _line(description: str, done: int, total: int | None, seconds: float, note: str = "") -> str:
    """Format `student drafts: 40/120, 8.0/s, 0:00:10 left; 1.2k in, 3.4k out`."""
    rate = done / seconds if seconds > 0 else 0.0
    text = f"{description}: {done}{'' if total is None else f'/{total}'}, {rate:.1f}/s"
    if total is not None and total > done and rate > 0:
        text += f", {timedelta(seconds=round((total - done) / rate))} left"
    return f"{text}; {note}" if note else text
