"""What to do when a server does not answer: ask again, wait, pause everything, or give up.

Every way in which a request can fail has one word, its reason:

    rate_limited    429: too many requests
    server_error    any other status that is worth another attempt
    connection      refused, reset or closed before the answer was complete
    timeout         nothing came for too long
    malformed       not the JSON of a chat completion
    empty           a turn that ended by itself and says nothing
    no_reasoning    a turn without reasoning, of a model that must reason
    too_long        the prompt does not fit into the model's context
    content_filter  the server's filter or the model itself declined
    refused         any other request that the server will never accept
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from introspect.core.errors import InputError

log = logging.getLogger(__name__)

RATE_LIMITED, SERVER_ERROR, CONNECTION, TIMEOUT = "rate_limited", "server_error", "connection", "timeout"
MALFORMED, EMPTY, NO_REASONING = "malformed", "empty", "no_reasoning"
TOO_LONG, CONTENT_FILTER, REFUSED = "too_long", "content_filter", "refused"

# Reasons that a policy may name in `reasons`; statuses have a list of their own.
RETRYABLE = (CONNECTION, TIMEOUT, MALFORMED, EMPTY, NO_REASONING)
# The longest pause of the circuit breaker, in seconds.
_LONGEST_PAUSE_S = 300.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one attempt brought no response.

    `detail` is one line; `status` the server's, if it sent one; `retry_after` the seconds that it asks to wait;
    `stops` says that every further request would fail in the same way.
    """

    reason: str
    detail: str
    status: int | None = None
    retry_after: float | None = None
    stops: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a request is sent again, and when everything pauses.

    attempts: of one request, the first included. deadline_s: seconds for all of them with the waits between.
    timeout_s: seconds without a byte from the server that end an attempt. statuses, reasons, finish_reasons: what is
    asked again; a response whose finish reason is still bad after the last attempt is kept. base_s, cap_s: the wait
    before attempt n + 1 is drawn from 0 to min(cap_s, base_s x 2^(n-1)), "full jitter" (Brooker, Exponential Backoff
    And Jitter, AWS 2015), and never shorter than the server's Retry-After. breaker_failures: attempts that fail in a
    row, of whatever requests, before everything pauses; breaker_pause_s: the first pause, each further one is twice as
    long, up to five minutes; breaker_pauses: pauses in a row before the run is given up.
    """

    attempts: int = 8
    deadline_s: float = 7200.0
    timeout_s: float = 1800.0
    statuses: Sequence[int] = (408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529, 530)
    reasons: Sequence[str] = RETRYABLE
    finish_reasons: Sequence[str] = ()
    base_s: float = 1.0
    cap_s: float = 60.0
    breaker_failures: int = 64
    breaker_pause_s: float = 10.0
    breaker_pauses: int = 12

    def __post_init__(self) -> None:
        for name in ("statuses", "reasons", "finish_reasons"):  # plain tuples, whatever kind of list a config gives
            object.__setattr__(self, name, tuple(getattr(self, name)))
        faults = [
            f"{field.name} is {value!r}, expected {least} or more"
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), int | float)
            and value < (least := 1 if isinstance(field.default, int) else 0)
        ]
        faults += [f"reasons: {name!r} is none of {', '.join(RETRYABLE)}" for name in {*self.reasons} - {*RETRYABLE}]
        if faults:
            raise InputError(f"retry: {'; '.join(faults)}")

    def retries(self, fault: Fault) -> bool:
        """Whether an attempt that failed so is worth another one."""
        if fault.stops:
            return False
        return fault.reason in self.reasons or (fault.status is not None and fault.status in self.statuses)

    def delay(self, attempt: int, retry_after: float | None, generator: random.Random) -> float:
        """Seconds between attempt number `attempt` (from 1) and the next."""
        jitter = generator.uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 60)))
        return jitter if retry_after is None else retry_after + min(jitter, self.base_s)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a server asks to wait: `Retry-After` in seconds or as an HTTP date (RFC 9110, 10.2.3).

    OpenAI's `retry-after-ms` is finer and counts first. None where the server says nothing that can be understood.
    `headers` has its names in lower case.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if text.replace(".", "", 1).isdecimal() and text.isascii():
            return float(text) / unit
    try:
        when = parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError, OverflowError):
        return None
    moment = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())


class Ticket(NamedTuple):
    """Leave to send one attempt: how long it was waited for, and whether it is the one that tries a paused server."""

    waited_s: float
    is_probe: bool


def _now() -> float:
    """Seconds, of the clock by which the pauses are timed."""
    return asyncio.get_running_loop().time()


class Breaker:
    """Pauses everything while nothing succeeds: one per server, used in one event loop.

    Closed, it lets everything through. After `breaker_failures` failures in a row it opens: everything waits. After
    the pause one attempt is let through; if it fails the next pause begins, if the server answers everything goes on.
    """

    def __init__(self, policy: RetryPolicy, name: str) -> None:
        """`name` is what the server is called in messages."""
        self._policy, self._name = policy, name
        self._failures = self._refusals = self._pauses = 0
        self._has_answered = False
        self._opened = 0.0
        self._probes = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def admit(self) -> Ticket:
        """Wait until an attempt may be sent."""
        start = _now()
        while self._pauses:
            if self._probes:
                self._probes -= 1
                return Ticket(_now() - start, True)
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        return Ticket(_now() - start, False)

    def answered(self) -> None:
        """The server answered."""
        self._has_answered = True
        self._is_there()

    def refused(self, fault: Fault) -> None:
        """The server answered by refusing: it is there, but a fault of ours in every request shows in this way.

        Raises:
            InputError: it has refused so many requests, and answered none.
        """
        self._is_there()
        self._refusals += fault.reason == REFUSED
        if not self._has_answered and self._refusals >= self._policy.breaker_failures:
            raise InputError(
                f"{self._name}: refused all of the first {self._refusals} requests; the last with: {fault.detail}"
            )

    def _is_there(self) -> None:
        self._failures = 0
        if not self._pauses:
            return
        log.info("%s: answers again after %.0f s", self._name, _now() - self._opened)
        self._pauses = self._probes = 0
        while self._waiting:
            self._wake_one()

    def failed(self, ticket: Ticket, fault: Fault) -> None:
        """An attempt failed in a way that another could mend.

        Raises:
            InputError: it has been so for too long.
        """
        if self._pauses and not ticket.is_probe:  # sent before the pause began
            return
        self._failures += 1
        if not self._pauses and self._failures < self._policy.breaker_failures:
            return
        if not self._pauses:
            self._opened = _now()
        if self._pauses >= self._policy.breaker_pauses:
            raise InputError(
                f"{self._name}: nothing was answered for {_now() - self._opened:.0f} s (last: {fault.reason},"
                f" {fault.detail}); every response that was made is kept, the same command makes the rest"
            )
        pause = min(self._policy.breaker_pause_s * 2.0**self._pauses, _LONGEST_PAUSE_S)
        self._pauses += 1
        log.warning(
            "%s: %d attempts in a row failed (last: %s, %s); pausing %.0f s, time %d of %d",
            self._name,
            self._failures,
            fault.reason,
            fault.detail,
            pause,
            self._pauses,
            self._policy.breaker_pauses,
        )
        asyncio.get_running_loop().call_later(pause, self._half_open)

    def _half_open(self) -> None:
        self._probes = 1
        self._wake_one()

    def _wake_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
