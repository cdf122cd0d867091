"""Asking a model through a store: stored answers first, every new one kept before anyone sees it."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

from introspect.chat.protocol import ChatFailure, ChatModel, ChatRequest, ChatResponse, ReplyStream
from introspect.chat.store.database import ResponseStore, request_key
from introspect.core.errors import InputError
from introspect.core.progress import is_rank_zero

log = logging.getLogger(__name__)

Pair = tuple[ChatRequest, ChatResponse]

# Requests that are looked up at once.
WINDOW = 512


def answer(
    model: ChatModel,
    requests: Iterable[ChatRequest],
    store: ResponseStore | None = None,
    on_response: Callable[[ChatRequest, ChatResponse], None] | None = None,
) -> Answers:
    """Yield requests with their responses: stored ones first, then the others as the model finishes them.

    A new response is in the store before it is yielded, and requests of the same content are sent once. Whoever stops
    in the middle (an exception, Ctrl-C) keeps what was finished until then. Requests are read as they are needed, so a
    generator of any length takes constant memory; its ids must be unique, which is checked where it can be: all of a
    sequence, and of a generator those that wait for an answer. `on_response` is called with each pair.

    Requests that the model gives up on are recorded in the store and not yielded; the next call asks them again. A
    table at the end says how many there were, and why.

    Raises:
        ValueError: two requests have the same id.
        RuntimeError: the model answers what does not wait for an answer, or leaves something unanswered.
        InputError: more requests failed than the model's `max_failure_rate` allows; after all others were answered.
    """
    return Answers(model, _pairs(model, requests, store, on_response))


class Answers(Iterator[Pair]):
    """What `answer` yields; nothing is asked before the first is wanted. `note` says what they have cost so far."""

    def __init__(self, model: ChatModel, pairs: Generator[Pair, None, None]) -> None:
        self._pairs = pairs
        self.note: Callable[[], str] | None = None if model.usage is None else model.usage.note

    def __next__(self) -> Pair:
        return next(self._pairs)

    def close(self) -> None:
        """Stop asking; what is finished is kept."""
        self._pairs.close()


def _pairs(
    model: ChatModel,
    requests: Iterable[ChatRequest],
    store: ResponseStore | None,
    on_response: Callable[[ChatRequest, ChatResponse], None] | None,
) -> Generator[Pair, None, None]:
    asking = _Asking(model, requests, store)
    for pair in asking.pairs():
        if on_response is not None:
            on_response(*pair)
        yield pair
    asking.conclude()


class _Asking:
    """One call of `answer`. Of requests that are over it remembers nothing but their number."""

    def __init__(self, model: ChatModel, requests: Iterable[ChatRequest], store: ResponseStore | None) -> None:
        if isinstance(requests, Sequence) and len({request.id for request in requests}) < len(requests):
            repeated, _ = Counter(request.id for request in requests).most_common(1)[0]
            raise ValueError(f"request ids must be unique; {repeated!r} occurs more than once")
        self._model, self._store, self._requests = model, store, iter(requests)
        self._identity = model.identity if store is not None else {}
        # So many are read ahead that a model that takes a handful at a time never makes us read on in its stead.
        self._ahead = max(WINDOW, 2 * model.concurrency)
        self._is_read = False  # all of them
        self._stored: deque[Pair] = deque()
        self._queue: deque[ChatRequest] = deque()
        # By the id of the request that is sent: its key, and all requests of that content.
        self._open: dict[str, tuple[str, list[ChatRequest]]] = {}
        self._same: dict[str, list[ChatRequest]] = {}
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._details: dict[str, str] = {}

    def pairs(self) -> Iterator[Pair]:
        """All that is answered."""
        yield from self._read_ahead()
        if self._store is not None:
            total, hits = self._counts["read"], self._counts["stored"]
            log.info(
                "%s: %d of %d%s responses stored, %d%s to be made",
                self._store.path,
                hits,
                *(total, "" if self._is_read else " or more"),
                *(len(self._queue), "" if self._is_read else " or more"),
            )
        if not self._queue:
            return
        replies = iter(self._model.generate(self._sent()))
        try:
            for reply in replies:
                yield from self._settle([reply, *_take(replies)])
                yield from self._read_ahead()
        finally:
            self._keep(replies)
        if self._open:
            raise RuntimeError(
                f"{self._name}: {len(self._open)} requests left unanswered, first {next(iter(self._open))!r}"
            )

    def conclude(self) -> None:
        """Say what it cost and what failed; InputError if that is too much."""
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
                " every response that was made is kept, the same command asks the others again"
            )
        where = "" if self._store is None else f"; python -m introspect.chat.store failures {self._store.path}"
        log.warning("%d of %d requests failed and are left out: %s%s", failed, total, reasons, where)

    @property
    def _name(self) -> str:
        return type(self._model).__name__

    def _read_ahead(self) -> Iterator[Pair]:
        """Yield stored answers until there is enough to send."""
        while True:
            while self._stored:
                yield self._stored.popleft()
            if self._is_read or len(self._queue) >= self._ahead:
                return
            self._read()

    def _sent(self) -> Iterator[ChatRequest]:
        """What the model is asked."""
        while self._queue or not self._is_read:
            if self._queue:
                yield self._queue.popleft()
            else:
                self._read()

    def _read(self) -> None:
        """Look the next window of requests up."""
        window = list(islice(self._requests, WINDOW))
        self._is_read = len(window) < WINDOW
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
        if request.id in self._open:
            raise ValueError(f"request ids must be unique; {request.id!r} occurs more than once")
        same = [request]
        self._open[request.id] = (key, same)
        if self._store is not None:
            self._same[key] = same
        self._queue.append(request)

    def _settle(self, replies: Iterable[ChatResponse | ChatFailure]) -> list[Pair]:
        """Commit what has arrived, all at once, and join it to its requests."""
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
        found = self._open.pop(reply.request_id, None)
        if found is None:
            raise RuntimeError(
                f"{self._name}: a response to request {reply.request_id!r}, which was never asked or answered already"
            )
        self._same.pop(found[0], None)
        return found

    def _fail(self, key: str, same: list[ChatRequest], failure: ChatFailure) -> None:
        self._counts["failed"] += len(same)
        self._reasons[failure.reason] += len(same)
        self._details.setdefault(failure.reason, failure.detail)
        if self._store is not None:
            self._store.put_failure(key, self._identity, same[0], failure)

    def _keep(self, replies: Iterator[ChatResponse | ChatFailure]) -> None:
        """At the end, however it came: stop the model, and keep what it had finished and nobody has seen."""
        if isinstance(replies, ReplyStream | Generator):
            replies.close()
        left = [reply for reply in _take(replies) if reply.request_id in self._open]
        if left and (self._store is None or self._store.is_open):
            self._settle(left)
        if self._open and self._store is not None:
            log.info("%s: stopped with %d responses made and kept", self._store.path, self._counts["made"])


def _take(replies: Iterator[ChatResponse | ChatFailure]) -> list[ChatResponse | ChatFailure]:
    """What is ready beyond the reply that was yielded last."""
    return replies.take() if isinstance(replies, ReplyStream) else []


def _show(reasons: Counter[str], details: dict[str, str]) -> None:
    import rich
    from rich.markup import escape
    from rich.table import Table

    table = Table("failed because", "requests", "for example", title="requests without a response")
    for reason, count in reasons.most_common():
        table.add_row(reason, f"{count:,}", escape(details[reason]))
    rich.print(table)
