"""Retries, backoff and a circuit breaker for requests that fail.

Every failure has one of these reasons:

    rate_limited    429: too many requests
    server_error    any other status that is worth another attempt
    connection      refused, reset or closed before the answer was complete
    timeout         no byte from the server for too long
    malformed       not the JSON of a chat completion
    empty           a finished turn without content
    no_reasoning    a finished turn without reasoning, of a model that must reason
    too_long        the prompt does not fit into the model's context
    content_filter  declined by the server's filter or by the model
    refused         any other request that the server never accepts
"""

from __future__ import annotations

import asyncio
import logging
import random
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

    Attributes:
        reason: one of those above.
        detail: one line for people.
        status: HTTP status, if there was one.
        retry_after: seconds that the server asks to wait.
        stops: whether every further request would fail in the same way.
    """

    reason: str
    detail: str
    status: int | None = None
    retry_after: float | None = None
    stops: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a request is sent again, and when all requests pause.

    The wait before attempt n + 1 is drawn from 0 to min(cap_s, base_s x 2^(n-1)), "full jitter" (Brooker, Exponential
    Backoff And Jitter, AWS 2015), and is never shorter than the server's Retry-After.

    Attributes:
        attempts: of one request, the first included.
        deadline_s: seconds for all attempts of a request and the waits between them.
        timeout_s: seconds without a byte from the server that end an attempt.
        statuses: HTTP statuses that are retried.
        reasons: reasons that are retried.
        finish_reasons: responses with these are requested again; the last one is kept.
        base_s: seconds; see above.
        cap_s: seconds; see above.
        breaker_failures: consecutive failures, of any requests, before all requests pause.
        breaker_pause_s: seconds of the first pause; each further one is twice as long, up to five minutes.
        breaker_pauses: consecutive pauses before the run is given up.
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
        """Whether a request that failed for this reason is sent again."""
        if fault.stops:
            return False
        return fault.reason in self.reasons or (fault.status is not None and fault.status in self.statuses)

    def delay(self, attempt: int, retry_after: float | None, generator: random.Random) -> float:
        """Seconds between attempt number `attempt` (from 1) and the next."""
        jitter = generator.uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 60)))
        return jitter if retry_after is None else retry_after + min(jitter, self.base_s)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a server asks to wait: `Retry-After` in seconds or as an HTTP date (RFC 9110, 10.2.3).

    OpenAI's `retry-after-ms` is finer and takes precedence.

    Args:
        headers: by lower-case name.
        now: the current time.

    Returns:
        None where the server gives no wait that can be parsed.
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


class Admission(NamedTuple):
    """Permission to send one attempt.

    Attributes:
        waited_s: seconds that the attempt waited for it.
        is_probe: whether it is the attempt that probes a paused server.
    """

    waited_s: float
    is_probe: bool


def _now() -> float:
    """Seconds, by the clock of the event loop."""
    return asyncio.get_running_loop().time()


class Breaker:
    """A circuit breaker: pauses all requests to one server while none succeeds. Used in one event loop.

    Closed, it admits every attempt. After `breaker_failures` consecutive failures it opens: all attempts wait. After
    the pause it admits one; if that fails the next pause begins, if the server answers it closes.

    Args:
        policy: when it opens, and for how long.
        name: of the server, in messages.
    """

    def __init__(self, policy: RetryPolicy, name: str) -> None:
        self._policy, self._name = policy, name
        self._failures = self._refusals = self._pauses = 0
        self._has_answered = False
        self._opened = 0.0
        # Set while attempts are admitted: all of them when closed, one after a pause.
        self._gate = asyncio.Event()
        self._gate.set()

    async def admit(self) -> Admission:
        """Wait until an attempt may be sent."""
        start = _now()
        while not self._gate.is_set():
            await self._gate.wait()
        if is_probe := self._pauses > 0:
            self._gate.clear()
        return Admission(_now() - start, is_probe)

    def answered(self) -> None:
        """The server answered."""
        self._has_answered = True
        self._recover()

    def refused(self, fault: Fault) -> None:
        """The server refused a request. A mistake in every request shows in this way.

        Raises:
            InputError: it has refused `breaker_failures` requests and answered none.
        """
        self._recover()
        self._refusals += fault.reason == REFUSED
        if not self._has_answered and self._refusals >= self._policy.breaker_failures:
            raise InputError(
                f"{self._name}: refused all of the first {self._refusals} requests; the last with: {fault.detail}"
            )

    def _recover(self) -> None:
        self._failures = 0
        if not self._pauses:
            return
        log.info("%s: answers again after %.0f s", self._name, _now() - self._opened)
        self._pauses = 0
        self._gate.set()

    def failed(self, admission: Admission, fault: Fault) -> None:
        """An attempt failed for a reason that another attempt may not meet.

        Raises:
            InputError: `breaker_pauses` pauses have not helped.
        """
        if self._pauses and not admission.is_probe:  # sent before the pause began
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
        self._gate.clear()
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
        asyncio.get_running_loop().call_later(pause, self._gate.set)
