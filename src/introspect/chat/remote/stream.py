"""Many slow asynchronous calls behind one ordinary iterator, in constant memory."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from itertools import islice
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[T], Awaitable[R]]

# How long `close` waits for the calls under way to be cancelled.
_PATIENCE_S = 10.0
# How long a consumer that waits leaves the loop alone.
_HEARTBEAT_S = 1.0


class Stream(Generic[T, R], Iterator[R]):
    """Calls `work(item)` for every item, up to `width` at a time, and yields the results as they finish.

    The calls run in an event loop in a thread of its own, so they go on while the consumer does something else. Items
    are pulled by the consumer's own thread, as places become free: at most `2 * width` items and results exist at a
    time, however many there are and however slow the consumer is. What `work` or the items raise, the consumer gets;
    what was finished before can still be taken.
    """

    def __init__(
        self, items: Iterable[T], opened: Callable[[], AbstractAsyncContextManager[Work[T, R]]], width: int
    ) -> None:
        """`opened` makes the context that gives the function `work` and lasts as long as the stream."""
        self._items = iter(items)
        self._ready: deque[R] = deque()
        self._room = 2 * width
        self._engine: _Engine[T, R] = _Engine(opened, width)
        self._is_closed = False

    def __next__(self) -> R:
        if not self._ready and not self._is_closed:
            self._refill()
        if self._ready:
            self._room += 1
            return self._ready.popleft()
        self.close()
        raise StopIteration

    def take(self) -> list[R]:
        """Every further result that is there already, without waiting."""
        for batch in self._engine.finished(wait=False):
            self._ready += batch
        taken = list(self._ready)
        self._ready.clear()
        self._room += len(taken)
        return taken

    def close(self) -> None:
        """Cancel the calls under way and end the thread. `take` still gives what was finished."""
        if not self._is_closed:
            self._is_closed = True
            self._engine.stop()

    def __del__(self) -> None:
        self.close()

    def _refill(self) -> None:
        """Send more items, and wait until at least one result is ready or nothing is under way."""
        for batch in self._engine.finished(wait=False):
            self._ready += batch
        if chunk := list(islice(self._items, self._room)):
            self._room -= len(chunk)
            self._engine.submit(chunk)
        while not self._ready and self._engine.outstanding:
            for batch in self._engine.finished(wait=True):
                self._ready += batch
        if not self._ready:
            self._engine.check()


class _Engine(Generic[T, R]):
    """The thread's side of a stream: knows nothing of the consumer, so that a forgotten stream can be collected."""

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[Work[T, R]]], width: int) -> None:
        self._opened, self._width = opened, width
        self._batches: queue.SimpleQueue[list[R]] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._work: Work[T, R]
        self._over: asyncio.Event
        self._is_open = threading.Event()
        self._backlog: deque[T] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: list[R] = []
        self.outstanding = 0  # items submitted whose results the consumer has not seen; the consumer's thread counts

    def submit(self, chunk: list[T]) -> None:
        """Hand items over. Called by the consumer's thread, as all that has no underscore."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
            self._thread.start()
            self._is_open.wait()
        self.check()
        self.outstanding += len(chunk)
        self._loop.call_soon_threadsafe(self._accept, chunk)

    def finished(self, *, wait: bool) -> Iterator[list[R]]:
        """Batches of results; if there are none, an error is raised or, if told to, the next batch waited for."""
        found = False
        while True:
            try:
                batch = self._batches.get(wait and not found, _HEARTBEAT_S)
            except queue.Empty:
                if found or not wait:
                    return
                self._poke()
                continue
            found = True
            if not batch:  # the engine has stopped
                self.outstanding = 0
                return
            self.outstanding -= len(batch)
            yield batch

    def _poke(self) -> None:
        """Wake the loop: on a virtual machine a wake-up can be late by minutes, seen as a stall of everything."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._flush)

    def check(self) -> None:
        """Raise what the engine has stopped for, if it has."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def stop(self) -> None:
        """Cancel everything and end the thread."""
        if self._thread is None:
            return
        if self._thread.is_alive():
            with suppress(RuntimeError):  # the loop was closed in this very moment
                self._loop.call_soon_threadsafe(self._over.set)
        if self._thread is not threading.current_thread():  # which a garbage collection can run in
            self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
            self._error = error
        finally:
            self._batches.put([])
            self._is_open.set()

    async def _main(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with self._opened() as work:
            self._work = work
            self._is_open.set()
            try:
                await self._over.wait()
            finally:
                self._backlog.clear()
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                self._flush()
        if self._error is not None:
            raise self._error

    def _accept(self, chunk: list[T]) -> None:
        self._backlog += chunk
        while self._backlog and len(self._tasks) < self._width:
            self._start(self._backlog.popleft())

    def _start(self, item: T) -> None:
        task: asyncio.Task[None] = self._loop.create_task(self._one(item))
        self._tasks.add(task)
        task.add_done_callback(self._next)

    async def _one(self, item: T) -> None:
        result = await self._work(item)
        if not self._done:  # one batch for all that finish in the same turn of the loop
            self._loop.call_soon(self._flush)
        self._done.append(result)

    def _next(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            if self._error is None:
                self._error = error
            self._over.set()
        elif self._backlog and not self._over.is_set():
            self._start(self._backlog.popleft())

    def _flush(self) -> None:
        if self._done:
            self._batches.put(self._done)
            self._done = []
