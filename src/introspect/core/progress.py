"""One progress display for every long loop outside the trainer: rollouts, trace synthesis, judging."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_NOTES = 0.5

Note = Callable[[], str]


def is_rank_zero() -> bool:
    """Whether this process is the one that speaks, among those that train together."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return int(next((rank for rank in ranks if rank), "0")) == 0


def track(items: Iterable[T], *, description: str, total: int | None = None, note: Note | None = None) -> Iterator[T]:
    """Yield `items` and show how many have come.

    A bar with the expected end in a terminal; elsewhere (a log file, a batch job) one log line every 15 seconds and
    one at the end. Only the first of several processes speaks.

    Args:
        items: what to pass through, in its own order.
        description: what is being made, e.g. `student drafts`.
        total: how many items are to come; by default their length, or unknown.
        note: what else there is to say, asked again and again, e.g. what it has cost so far; by default the items' own
            `note`, if they have one, as those of `answer` do.
    """
    if note is None:
        note = getattr(items, "note", None)
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

    # The global console, so that a bar may stand below the trainer's own.
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
    start = spoken = time.monotonic()
    done = 0
    for item in items:
        done += 1
        now = time.monotonic()
        if now - spoken >= SECONDS_BETWEEN_LINES:
            spoken = now
            log.info(_line(description, done, total, now - start, note()))
        yield item
    log.info(_line(description, done, total, time.monotonic() - start, note()))


def _line(description: str, done: int, total: int | None, seconds: float, note: str = "") -> str:
    """`student drafts: 40/120, 8.0/s, 0:00:10 left; 1.2k in, 3.4k out`."""
    rate = done / seconds if seconds > 0 else 0.0
    text = f"{description}: {done}{'' if total is None else f'/{total}'}, {rate:.1f}/s"
    if total is not None and total > done and rate > 0:
        text += f", {timedelta(seconds=round((total - done) / rate))} left"
    return f"{text}; {note}" if note else text
