"""Many slow asynchronous calls behind one ordinary iterator, in constant memory."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from itertools import islice
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[T], Awaitable[R]]
# Makes the context that gives the function that is called for every item, and lasts as long as the stream.
Opened = Callable[[], AbstractAsyncContextManager[Work[T, R]]]

# Seconds that `close` waits for the calls under way to be cancelled.
_CANCEL_S = 10.0


class Stream(Generic[T, R], Iterator[R]):
    """Calls `work(item)` for every item, up to `width` at a time, and yields the results as they finish.

    The calls run in an event loop in a thread of its own, so they go on while the consumer does something else. Items
    are pulled by the consumer's own thread, as places become free: at most `2 * width` items and results exist at a
    time, however many there are and however slow the consumer is. What `work` or the items raise, the consumer gets;
    what was finished before can still be taken.

    Args:
        items: arguments of the calls.
        opened: context manager that gives the function `work`.
        width: calls at a time.
    """

    def __init__(self, items: Iterable[T], opened: Opened[T, R], width: int) -> None:
        self._items = iter(items)
        self._ready: deque[R] = deque()
        self._most = 2 * width
        self._pending = 0  # items submitted whose results are not in `_ready` yet
        self._worker = _Worker(opened, width)
        self._is_closed = False
        self._has_ended = False  # the thread, and all that it had to give is in `_ready`

    def __next__(self) -> R:
        if not self._ready and not self._is_closed:
            self._receive(wait=False)
            if not self._has_ended:
                self._submit()
            if not self._ready and self._pending:
                self._receive(wait=True)
        if self._ready:
            return self._ready.popleft()
        self.close()
        self._worker.raise_error()
        raise StopIteration

    def take(self) -> list[R]:
        """Every further result that is there already, without waiting."""
        self._receive(wait=False)
        taken = list(self._ready)
        self._ready.clear()
        return taken

    def close(self) -> None:
        """Cancel the calls under way and end the thread. `take` still gives what was finished."""
        if not self._is_closed:
            self._is_closed = True
            self._worker.stop()

    def __del__(self) -> None:
        self.close()

    def _submit(self) -> None:
        if chunk := list(islice(self._items, self._most - self._pending - len(self._ready))):
            self._pending += len(chunk)
            self._worker.submit(chunk)

    def _receive(self, *, wait: bool) -> None:
        """Collect the results that are there; if there are none and `wait` is set, wait for one."""
        with suppress(queue.Empty):
            while (result := self._worker.results.get(block=wait)) is not None:
                self._ready += result
                self._pending -= 1
                wait = False
            self._pending, self._has_ended = 0, True


class _Worker(Generic[T, R]):
    """The thread and its event loop. It knows nothing of the stream, so that a forgotten stream can be collected."""

    def __init__(self, opened: Opened[T, R], width: int) -> None:
        self._opened, self._width = opened, width
        self.results: queue.SimpleQueue[tuple[R] | None] = queue.SimpleQueue()  # None when the thread ends
        self._error: BaseException | None = None
        self._backlog: asyncio.Queue[T] = asyncio.Queue()
        self._is_over = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, chunk: Sequence[T]) -> None:
        """Hand items over; the first ones start the thread."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._run, args=(self._loop,), name="stream", daemon=True)
            self._thread.start()
        self._call(self._accept, chunk)

    def stop(self) -> None:
        """Cancel all calls and wait for the end of the thread."""
        if self._thread is not None:
            self._call(self._is_over.set)
            if self._thread is not threading.current_thread():  # where a garbage collection may run
                self._thread.join(_CANCEL_S)

    def raise_error(self) -> None:
        """Raise what ended the thread, once, if anything did."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: the thread has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(self._main())
        except BaseExceptionGroup as group:
            self._error = group.exceptions[0]
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
            self._error = error
        finally:
            self.results.put(None)

    async def _main(self) -> None:
        async with self._opened() as work, asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._work(work)) for _ in range(self._width)]
            await self._is_over.wait()
            for task in tasks:
                task.cancel()

    async def _work(self, work: Work[T, R]) -> None:
        while True:
            self.results.put((await work(await self._backlog.get()),))

    def _accept(self, chunk: Sequence[T]) -> None:
        for item in chunk:
            self._backlog.put_nowait(item)
