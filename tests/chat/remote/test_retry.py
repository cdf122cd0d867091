from __future__ import annotations

import asyncio
import logging
import random
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.chat.protocol import ChatFailure, ChatRequest, Message, Sampling
from introspect.chat.remote.openai import OpenAIChat, _Client
from introspect.chat.remote.retry import (
    CONNECTION,
    EMPTY,
    RATE_LIMITED,
    REFUSED,
    SERVER_ERROR,
    TIMEOUT,
    Admission,
    Breaker,
    Fault,
    RetryPolicy,
    retry_after,
)
from introspect.core.errors import InputError

BROKEN = Fault(CONNECTION, "reset")


class Jumps(selectors.SelectSelector):
    """Waits for nothing: the clock jumps to the next moment at which something is to be done."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing is left that could happen"
        self.now += timeout
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock that no busy machine can hold up."""

    def __init__(self) -> None:
        self._jumps = Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.now


def play(story: Coroutine[None, None, None]) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(story)


@given(st.integers(1, 200), st.integers(0, 2**32))
def test_waits_grow_to_a_bound_and_are_drawn_from_nothing_up(attempt: int, seed: int) -> None:
    policy = RetryPolicy(base_s=2.0, cap_s=30.0)
    delay = policy.delay(attempt, None, random.Random(seed))
    assert 0 <= delay <= min(30.0, 2.0 * 2 ** (attempt - 1))


def test_full_jitter_uses_the_whole_range() -> None:
    generator = random.Random(0)
    delays = [RetryPolicy(base_s=1.0).delay(3, None, generator) for _ in range(2000)]
    assert 1.9 < sum(delays) / len(delays) < 2.1
    assert min(delays) < 0.05
    assert max(delays) > 3.95


@given(st.floats(0, 1e6), st.integers(1, 50))
def test_a_server_is_never_asked_before_it_said(after: float, attempt: int) -> None:
    assert after <= RetryPolicy(base_s=1.0).delay(attempt, after, random.Random(1)) <= after + 1.0


NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.25 "}, 0.25),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=90), usegmt=True)}, 90.0),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=90), usegmt=True)}, 0.0),
        ({"retry-after": "Sun Mar  1 12:00:05 2026"}, 5.0),  # asctime, without a zone
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "\u0667"}, None),
        ({"retry-after": "."}, None),
        ({"retry-after": "Mon, 99 Foo 2026"}, None),
        ({"retry-after": "Wed, 21 Oct 99999999999 07:28:00 GMT"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


def test_what_is_asked_again() -> None:
    policy = RetryPolicy(statuses=[429, 500], reasons=["empty"])
    assert policy.retries(Fault(RATE_LIMITED, "", 429))
    assert policy.retries(Fault(SERVER_ERROR, "", 500))
    assert policy.retries(Fault(EMPTY, ""))
    assert not policy.retries(Fault(SERVER_ERROR, "", 503))
    assert not policy.retries(BROKEN)
    assert not policy.retries(Fault(REFUSED, "", 400))
    assert not policy.retries(Fault(RATE_LIMITED, "no credit", 429, stops=True))


@pytest.mark.parametrize("status", [521, 523, 530])
def test_a_server_that_is_gone_behind_a_gateway_comes_back(status: int) -> None:
    # Cloudflare's words for it. Given up at once, they would burn the questions of a night in a minute.
    assert RetryPolicy().retries(Fault(SERVER_ERROR, "", status))


def test_settings_that_can_not_be_right_are_all_named_at_once() -> None:
    with pytest.raises(InputError, match=r"attempts is 0.*base_s is -1.*breaker_failures is 0.*reasons: 'tired'"):
        RetryPolicy(attempts=0, base_s=-1, breaker_failures=0, reasons=["tired"])


def breaker(**settings: float) -> Breaker:
    return Breaker(
        RetryPolicy(**{"breaker_failures": 3, "breaker_pause_s": 0.05, "breaker_pauses": 2, **settings}), "s"
    )


def fail(subject: Breaker, times: int, admission: Admission = Admission(0.0, False)) -> None:  # noqa: B008 - immutable
    for _ in range(times):
        subject.failed(admission, BROKEN)


async def is_open(subject: Breaker) -> bool:
    try:
        await asyncio.wait_for(subject.admit(), 0.01)
    except TimeoutError:
        return True
    return False


def test_a_breaker_counts_failures_in_a_row() -> None:
    async def story() -> None:
        subject = breaker()
        for _ in range(5):
            fail(subject, 2)
            assert not await is_open(subject)
            subject.answered()
        fail(subject, 3)
        assert await is_open(subject)

    play(story())


def test_one_attempt_tries_a_paused_server_and_lets_all_others_go(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def story() -> None:
        subject = breaker()
        fail(subject, 3)
        waiting = [asyncio.create_task(subject.admit()) for _ in range(5)]
        await asyncio.sleep(0.08)
        [probe] = [task.result() for task in waiting if task.done()]
        assert probe.is_probe
        assert probe.waited_s == pytest.approx(0.05)
        waiting.append(asyncio.create_task(subject.admit()))  # who comes during the attempt waits too
        # Attempts from before the pause fail late: they say nothing new.
        fail(subject, 5)
        subject.failed(probe, BROKEN)
        await asyncio.sleep(0.05)
        assert sum(task.done() for task in waiting) == 1  # the second pause is twice as long
        await asyncio.sleep(0.08)
        assert sum(task.done() for task in waiting) == 2
        subject.answered()
        admissions = await asyncio.gather(*waiting)
        assert sum(admission.is_probe for admission in admissions) == 2
        assert not await is_open(subject)

    play(story())
    pauses = [record.getMessage() for record in caplog.records if "pausing" in record.getMessage()]
    assert len(pauses) == 2
    assert "s: 3 attempts in a row failed (last: connection, reset); pausing 0 s, time 1 of 2" in pauses[0]
    assert "answers again after" in caplog.text


def test_a_breaker_gives_up_in_the_end() -> None:
    async def story() -> None:
        subject = breaker()
        fail(subject, 3)
        subject.failed(await subject.admit(), BROKEN)
        with pytest.raises(InputError, match=r"s: nothing was answered for 0 s \(last: connection, reset\)"):
            subject.failed(await subject.admit(), BROKEN)

    play(story())


def test_a_refusal_is_a_sign_of_life_but_nothing_but_refusals_is_a_mistake() -> None:
    async def story() -> None:
        no = Fault(REFUSED, "400: unknown field", 400)
        subject = breaker()
        fail(subject, 2)
        subject.refused(no)
        fail(subject, 2)
        assert not await is_open(subject)
        subject.refused(no)
        with pytest.raises(InputError, match="refused all of the first 3 requests; the last with: 400: unknown field"):
            subject.refused(no)
        subject = breaker()
        subject.answered()
        for _ in range(20):
            subject.refused(no)
        subject = breaker()
        for _ in range(20):
            subject.refused(Fault("too_long", "", 400))

    play(story())


def test_a_waiter_that_was_cancelled_does_not_take_the_probe_with_it() -> None:
    async def story() -> None:
        subject = breaker()
        fail(subject, 3)
        gone, stays = (asyncio.create_task(subject.admit()) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await asyncio.wait_for(stays, 1)).is_probe

    play(story())


def test_a_pause_of_everything_extends_the_deadline_of_a_request_by_its_length() -> None:
    class FailsThenHangs:
        """A server that refuses the first attempt after 1 s and never answers another one."""

        attempts = 0

        async def post(self, body: bytes) -> SimpleNamespace:
            self.attempts += 1
            await asyncio.sleep(1 if self.attempts == 1 else 1e6)
            return SimpleNamespace(status=503, headers={}, body=b"")

    policy = RetryPolicy(attempts=2, deadline_s=60, base_s=0, breaker_failures=1, breaker_pause_s=100)
    request = ChatRequest("0", (Message("user", "Who?"),), Sampling())

    async def story() -> None:
        connections = FailsThenHangs()
        chat = OpenAIChat("m", base_url="http://127.0.0.1:1/v1", retry=policy)
        reply = await _Client(chat, connections, "m", None).complete(request)  # type: ignore[arg-type]
        assert isinstance(reply, ChatFailure)
        assert (reply.reason, connections.attempts) == (TIMEOUT, 2)
        assert asyncio.get_running_loop().time() == pytest.approx(60 + 100)

    play(story())
