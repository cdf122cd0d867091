"""Request responses through a store: stored responses first, each new one stored before it is yielded."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

from introspect.chat.protocol import ChatFailure, ChatModel, ChatRequest, ChatResponse, ReplyStream
from introspect.chat.store.database import ResponseStore, request_key
from introspect.core.errors import InputError
from introspect.core.progress import is_rank_zero

log = logging.getLogger(__name__)

Pair = tuple[ChatRequest, ChatResponse]

# Requests that are looked up together.
WINDOW = 512


def answer(
    model: ChatModel,
    requests: Iterable[ChatRequest],
    store: ResponseStore | None = None,
    on_response: Callable[[ChatRequest, ChatResponse], None] | None = None,
) -> Answers:
    """Yield requests with their responses: stored ones first, then the others as the model finishes them.

    A new response is in the store before it is yielded, and requests of the same content are sent once. If the consumer
    stops in the middle (an exception, Ctrl-C), the store has all responses that were finished by then. Requests are
    read as they are needed, so a generator of any length takes constant memory.

    Failed requests are recorded in the store and not yielded; the next call sends them again. At the end a table shows
    their number by reason.

    Args:
        model: the chat model.
        requests: with unique ids: checked for all of a sequence, and among the pending ones of a generator.
        store: where responses are looked up and kept; None keeps none.
        on_response: is called with each pair.

    Raises:
        ValueError: two requests have the same id.
        RuntimeError: the model responds to a request that is not pending, or leaves one without a response.
        InputError: more requests failed than the model's `max_failure_rate` allows; raised after all others are done.
    """
    return Answers(model, requests, store, on_response)


class Answers(Iterator[Pair]):
    """The iterator of `answer`. It sends nothing before the first response is needed, and keeps no finished request.

    Attributes:
        note: returns the usage so far as text, for a progress bar; None for a model without usage.
    """

    def __init__(
        self,
        model: ChatModel,
        requests: Iterable[ChatRequest],
        store: ResponseStore | None,
        on_response: Callable[[ChatRequest, ChatResponse], None] | None,
    ) -> None:
        self.note: Callable[[], str] | None = None if model.usage is None else model.usage.note
        self._model, self._store, self._requests, self._on_response = model, store, requests, on_response
        self._name = type(model).__name__
        self._identity: Mapping[str, str] = {}
        # Enough requests in reserve that the model never makes us read while responses wait.
        self._ahead = max(WINDOW, 2 * model.concurrency)
        self._has_read_all = False
        self._stored: deque[Pair] = deque()
        self._queue: deque[ChatRequest] = deque()
        # By the id of the request that is sent: its key, and all requests of the same content.
        self._pending: dict[str, tuple[str, list[ChatRequest]]] = {}
        self._same: dict[str, list[ChatRequest]] = {}
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._details: dict[str, str] = {}
        self._pairs = self._run()

    def __next__(self) -> Pair:
        return next(self._pairs)

    def close(self) -> None:
        """Stop; the store keeps all finished responses."""
        self._pairs.close()

    def _run(self) -> Generator[Pair, None, None]:
        requests = self._requests
        if isinstance(requests, Sequence) and len({request.id for request in requests}) < len(requests):
            repeated, _ = Counter(request.id for request in requests).most_common(1)[0]
            raise ValueError(f"request ids must be unique; {repeated!r} occurs more than once")
        self._requests = iter(requests)
        if self._store is not None:
            self._identity = self._model.identity
        for pair in self._join():
            if self._on_response is not None:
                self._on_response(*pair)
            yield pair
        self._conclude()

    def _join(self) -> Iterator[Pair]:
        """Yield all requests with their responses."""
        yield from self._read_ahead()
        if self._store is not None:
            more = "" if self._has_read_all else " or more"
            total, hits, missing = self._counts["read"], self._counts["stored"], len(self._queue)
            log.info(
                "%s: %d of %d%s responses stored, %d%s to be made", self._store.path, hits, total, more, missing, more
            )
        if not self._queue:
            return
        replies = iter(self._model.generate(self._sent()))
        try:
            for reply in replies:
                yield from self._commit([reply, *_take(replies)])
                yield from self._read_ahead()
        finally:
            self._stop(replies)
        if self._pending:
            raise RuntimeError(
                f"{self._name}: {len(self._pending)} requests left unanswered, first {next(iter(self._pending))!r}"
            )

    def _conclude(self) -> None:
        """Log the usage and the failures.

        Raises:
            InputError: there are too many failures.
        """
        if self._model.usage is not None and self._counts["made"]:
            log.info("%s: %s", self._identity.get("model", self._name), self._model.usage.note())
        failed, total = self._counts["failed"], self._counts["read"]
        if not failed:
            return
        reasons = ", ".join(f"{count} {reason}" for reason, count in self._reasons.most_common())
        if is_rank_zero():
            _show(self._reasons, self._details)
        allowed = self._model.max_failure_rate
        if failed > allowed * total:
            raise InputError(
                f"{failed} of {total} requests failed, more than max_failure_rate={allowed:g} allows: {reasons};"
                " all responses are kept, the same command requests the others again"
            )
        where = "" if self._store is None else f"; python -m introspect.chat.store failures {self._store.path}"
        log.warning("%d of %d requests failed and are left out: %s%s", failed, total, reasons, where)

    def _read_ahead(self) -> Iterator[Pair]:
        """Yield stored responses until there are enough requests to send."""
        while True:
            while self._stored:
                yield self._stored.popleft()
            if self._has_read_all or len(self._queue) >= self._ahead:
                return
            self._read()

    def _sent(self) -> Iterator[ChatRequest]:
        """Yield the requests for the model."""
        while self._queue or not self._has_read_all:
            if self._queue:
                yield self._queue.popleft()
            else:
                self._read()

    def _read(self) -> None:
        """Look up the next window of requests."""
        window = list(islice(self._requests, WINDOW))
        self._has_read_all = len(window) < WINDOW
        self._counts["read"] += len(window)
        if self._store is None:
            for request in window:
                self._enqueue(request.id, request)
            return
        keyed = [(request_key(self._identity, request), request) for request in window]
        known = self._store.get_all(dict(keyed))
        for key, request in keyed:
            if (stored := known.get(key)) is not None:
                self._counts["stored"] += 1
                self._stored.append((request, replace(stored, request_id=request.id)))
            elif (same := self._same.get(key)) is not None:
                same.append(request)
            else:
                self._enqueue(key, request)

    def _enqueue(self, key: str, request: ChatRequest) -> None:
        if request.id in self._pending:
            raise ValueError(f"request ids must be unique; {request.id!r} occurs more than once")
        same = [request]
        self._pending[request.id] = (key, same)
        if self._store is not None:
            self._same[key] = same
        self._queue.append(request)

    def _commit(self, replies: Iterable[ChatResponse | ChatFailure]) -> list[Pair]:
        """Store replies in one transaction, and join the responses to their requests."""
        pairs: list[Pair] = []
        with nullcontext() if self._store is None else self._store.transaction():
            for reply in replies:
                key, same = self._claim(reply)
                if isinstance(reply, ChatFailure):
                    self._fail(key, same, reply)
                    continue
                self._counts["made"] += 1
                if self._store is not None:
                    reply = self._store.put(key, self._identity, same[0], reply)
                pairs += [(request, replace(reply, request_id=request.id)) for request in same]
        return pairs

    def _claim(self, reply: ChatResponse | ChatFailure) -> tuple[str, list[ChatRequest]]:
        found = self._pending.pop(reply.request_id, None)
        if found is None:
            raise RuntimeError(f"{self._name}: a response to request {reply.request_id!r}, which is not pending")
        self._same.pop(found[0], None)
        return found

    def _fail(self, key: str, same: list[ChatRequest], failure: ChatFailure) -> None:
        self._counts["failed"] += len(same)
        self._reasons[failure.reason] += len(same)
        self._details.setdefault(failure.reason, failure.detail)
        if self._store is not None:
            self._store.put_failure(key, self._identity, same[0], failure)

    def _stop(self, replies: Iterator[ChatResponse | ChatFailure]) -> None:
        """Stop the model, and store the replies that were finished and not yielded."""
        if isinstance(replies, ReplyStream | Generator):
            replies.close()
        left = [reply for reply in _take(replies) if reply.request_id in self._pending]
        if left and (self._store is None or self._store.is_open):
            self._commit(left)
        if self._pending and self._store is not None:
            log.info("%s: stopped with %d responses made and kept", self._store.path, self._counts["made"])


def _take(replies: Iterator[ChatResponse | ChatFailure]) -> list[ChatResponse | ChatFailure]:
    """Return what has arrived after the reply that was yielded last."""
    return replies.take() if isinstance(replies, ReplyStream) else []


def _show(reasons: Counter[str], details: dict[str, str]) -> None:
    import rich
    from rich.markup import escape
    from rich.table import Table

    table = Table("reason", "requests", "example", title="failed requests")
    for reason, count in reasons.most_common():
        table.add_row(reason, f"{count:,}", escape(details[reason]))
    rich.print(table)
