from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from introspect.chat.remote.stream import Stream

Opened = Callable[[], AbstractAsyncContextManager[Callable[[int], Awaitable[int]]]]


class Work:
    """Doubles numbers, slowly; remembers how many at once."""

    def __init__(self, seconds: float = 0.001, bad: int = -1) -> None:
        self.seconds, self.bad = seconds, bad
        self.running = self.most = 0
        self.cancelled: list[int] = []
        self.is_open = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Callable[[int], Awaitable[int]]]:
        self.is_open = True
        yield self.double
        self.is_open = False

    async def double(self, number: int) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        finally:
            self.running -= 1
        if number == self.bad:
            raise ValueError(f"bad number {number}")
        return 2 * number


class Gate(Work):
    """Doubles 0 at once, and all other numbers together when it is lifted."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Callable[[int], Awaitable[int]]]:
        self.loop, self.is_lifted = asyncio.get_running_loop(), asyncio.Event()
        yield self.double

    async def double(self, number: int) -> int:
        if number:
            await self.is_lifted.wait()
        return 2 * number

    def lift(self) -> None:
        self.loop.call_soon_threadsafe(self.is_lifted.set)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "stream"]


def test_every_item_has_one_result_and_no_more_run_at_once_than_allowed() -> None:
    work = Work()
    assert sorted(Stream(range(500), work.opened, 16)) == list(range(0, 1000, 2))
    assert work.most == 16
    assert not work.is_open
    assert not threads()
    assert list(Stream([], work.opened, 4)) == []


def test_items_are_pulled_by_the_consumer_and_not_far_ahead() -> None:
    pulled, pullers = 0, set()

    def items() -> Iterator[int]:
        nonlocal pulled
        for number in range(300):
            pulled += 1
            pullers.add(threading.current_thread())
            yield number

    for seen, _ in enumerate(Stream(items(), Work().opened, 8), start=1):
        assert pulled - seen <= 16
        time.sleep(0.0005)
    assert pullers == {threading.current_thread()}


def test_results_come_while_items_are_still_missing() -> None:
    gate = iter([1, 2])
    stream = Stream(gate, Work(0.0).opened, 1)
    assert [next(stream), next(stream)] == [2, 4]


def test_take_gives_what_is_there_and_does_not_wait() -> None:
    gate = Gate()
    stream = Stream(range(8), gate.opened, 8)
    assert next(stream) == 0
    late = threading.Timer(20, gate.lift)
    late.start()
    assert stream.take() == []
    late.cancel()
    gate.lift()
    until = time.monotonic() + 20
    while not (taken := stream.take()) and time.monotonic() < until:
        time.sleep(0.01)
    assert taken == list(range(2, 16, 2))
    assert list(stream) == []


def test_an_error_reaches_the_consumer_and_what_was_finished_can_be_taken() -> None:
    stream = Stream(range(1000), Work(bad=50).opened, 4)
    seen: list[int] = []
    with pytest.raises(ValueError, match="bad number 50"):
        seen.extend(stream)  # which keeps what came before the error
    stream.close()
    seen += stream.take()
    assert 100 not in seen
    assert len(seen) >= 47
    assert not threads()


def test_an_error_of_the_items_or_of_the_opening_reaches_the_consumer() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("items")

    stream = Stream(items(), Work().opened, 1)
    with pytest.raises(KeyError, match="items"):
        list(stream)
    stream.close()

    @asynccontextmanager
    async def broken() -> AsyncIterator[Callable[[int], Awaitable[int]]]:
        raise OSError("no way in")
        yield

    with pytest.raises(OSError, match="no way in"):
        list(Stream([1], broken, 1))
    assert not threads()


@pytest.mark.parametrize("leave", ["close", "forget"])
def test_who_leaves_early_cancels_what_is_under_way(leave: str) -> None:
    work = Work(seconds=30.0)
    quick = Work(seconds=0.0)

    @asynccontextmanager
    async def mixed() -> AsyncIterator[Callable[[int], Awaitable[int]]]:
        async with work.opened() as slow, quick.opened() as fast:

            async def either(number: int) -> int:
                return await (slow(number) if number else fast(number))

            yield either

    stream = Stream(range(5), mixed, 5)
    assert next(stream) == 0
    if leave == "close":
        stream.close()
        stream.close()
        assert list(stream) == []
    del stream
    gc.collect()
    assert sorted(work.cancelled) == [1, 2, 3, 4]
    assert not work.is_open
    assert not threads()


def test_a_stream_can_be_closed_in_its_own_thread() -> None:
    # A garbage collection runs in whichever thread allocates.
    async def close(number: int) -> int:
        stream.close()
        return number

    @asynccontextmanager
    async def opened() -> AsyncIterator[Callable[[int], Awaitable[int]]]:
        yield close

    stream = Stream(iter([1]), opened, 1)
    assert list(stream) in ([], [1])
