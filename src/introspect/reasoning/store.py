"""Chat responses on disk: what was answered once is never asked again.

A response is filed under the content of its request and the identity of the model, so a changed prompt, template,
weight, sampling setting or seed never meets an old answer, and is on disk before the next one is looked at.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from introspect.errors import InputError
from introspect.reasoning.chat import ChatModel, ChatRequest, ChatResponse, Usage

log = logging.getLogger(__name__)

# Part of every key and of the file: raised when keys or columns change their meaning.
SCHEMA = 1
# "INTR": marks the file as one of ours (SQLite's application id).
_APPLICATION = 0x494E5452
# How long to wait for another process that is writing; a write takes milliseconds.
_PATIENCE_S = 60.0

_COLUMNS = "reasoning, content, finish_reason, prompt_tokens, completion_tokens, reasoning_tokens"
_CREATE = """CREATE TABLE responses (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, request TEXT NOT NULL, reasoning TEXT NOT NULL, content TEXT NOT NULL,
    finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL, created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"""


def request_key(identity: Mapping[str, str], request: ChatRequest) -> str:
    """The hex digest under which a response is filed: of all that determines it, so not of the request's id."""
    sampling = asdict(request.sampling)
    content = {
        "schema": SCHEMA,
        "model": dict(identity),
        "messages": [asdict(message) for message in request.messages],
        # 1 and 1.0 are the same setting.
        "sampling": sampling | {name: float(sampling[name]) for name in ("temperature", "top_p")},
        "sample": request.sample,
        "example": None if request.example is None else _digest(asdict(request.example)),
    }
    return _digest(content)


class ResponseStore:
    """A SQLite file with one row per response, committed as it arrives; a context manager.

    Any number of processes may use the same file. Killing one loses only what it had not yet put. The rows also keep
    the request and the model's identity as JSON, to be looked at with any SQLite tool.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file, making it and its folder if absent. InputError if it is anything but a response store."""
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=_PATIENCE_S, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"{self.path}: cannot be opened as a response store: {error}") from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            raise InputError(f"{self.path}: expected a response store (a SQLite file): {error}") from error
        except InputError:
            self._db.close()
            raise

    def __enter__(self) -> ResponseStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM responses").fetchone()[0])

    def close(self) -> None:
        """Close the file. The store cannot be used afterwards."""
        self._db.close()

    def get(self, key: str, request: ChatRequest) -> ChatResponse | None:
        """The response stored under the request's key, with the id of this request; None if there is none."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM responses WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        reasoning, content, finish_reason, *counts = row
        return ChatResponse(request.id, reasoning, content, finish_reason, Usage(*counts))

    def put(self, key: str, identity: Mapping[str, str], request: ChatRequest, response: ChatResponse) -> ChatResponse:
        """Store a response under its request's key and return what is stored: the first answer stands."""
        usage = response.usage
        values = (
            key,
            _canonical(dict(identity)),
            _canonical(asdict(request) | {"example": request.example.id if request.example else None}),
            response.reasoning,
            response.content,
            response.finish_reason,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.reasoning_tokens,
        )
        places = ", ".join("?" * len(values))
        insert = f"INSERT OR IGNORE INTO responses (key, model, request, {_COLUMNS}) VALUES ({places})"
        inserted = self._db.execute(insert, values).rowcount
        return response if inserted else self.get(key, request) or response

    def _prepare(self) -> None:
        """Check the file, or make the table in a new one, and switch to write-ahead logging."""
        if self._is_new():
            self._enter_wal()
            self._db.execute("BEGIN IMMEDIATE")
            if self._is_new():  # Another process may have been faster.
                self._db.execute(_CREATE)
                self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {SCHEMA}")
            self._db.execute("COMMIT")
        if self._pragma("application_id") != _APPLICATION:
            raise InputError(f"{self.path}: a SQLite file, but not a response store")
        if (version := self._pragma("user_version")) != SCHEMA:
            raise InputError(f"{self.path}: a response store of version {version}; this program reads version {SCHEMA}")
        # A process that is killed loses nothing it committed; only a power cut may take the last responses.
        self._db.execute("PRAGMA synchronous = NORMAL")

    def _is_new(self) -> bool:
        return not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _enter_wal(self) -> None:
        """Two processes that open a new file at once: SQLite fails one of them at once here, whatever its timeout."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def answer(
    model: ChatModel,
    requests: Iterable[ChatRequest],
    store: ResponseStore | None = None,
    on_response: Callable[[ChatRequest, ChatResponse], None] | None = None,
) -> Iterator[tuple[ChatRequest, ChatResponse]]:
    """Yield every request with its response: the stored ones first, then the others as the model finishes them.

    A new response is in the store before it is yielded, and requests of the same content are sent once. `on_response`
    is called with each pair, for progress bars. Raises ValueError if two requests have the same id, and RuntimeError if
    the model answers an id that was not asked or was answered already, or leaves one unanswered.
    """
    asked = list(requests)
    if repeated := _repeated(request.id for request in asked):
        raise ValueError(f"request ids must be unique; {repeated!r} occurs more than once")
    for pair in _answered(model, asked, store):
        if on_response is not None:
            on_response(*pair)
        yield pair


def _answered(
    model: ChatModel, asked: list[ChatRequest], store: ResponseStore | None
) -> Iterator[tuple[ChatRequest, ChatResponse]]:
    if store is None:
        yield from _generated(model, asked)
        return
    identity = model.identity
    # Requests without a stored response, by content: the first of each is sent.
    missing: dict[str, list[ChatRequest]] = {}
    for request in asked:
        key = request_key(identity, request)
        if (stored := store.get(key, request)) is not None:
            yield request, stored
        else:
            missing.setdefault(key, []).append(request)
    hits = len(asked) - sum(map(len, missing.values()))
    log.info("%s: %d of %d responses stored, %d to be made", store.path, hits, len(asked), len(missing))
    keys = {same[0].id: key for key, same in missing.items()}
    for request, response in _generated(model, [same[0] for same in missing.values()]):
        key = keys[request.id]
        kept = store.put(key, identity, request, response)
        for alike in missing.pop(key):
            yield alike, replace(kept, request_id=alike.id)


def _generated(model: ChatModel, asked: list[ChatRequest]) -> Iterator[tuple[ChatRequest, ChatResponse]]:
    """Responses joined to their requests by id, each request answered exactly once."""
    if not asked:
        return
    open_requests = {request.id: request for request in asked}
    known = set(open_requests)
    for response in model.generate(asked):
        request = open_requests.pop(response.request_id, None)
        if request is None:
            fault = "answered twice" if response.request_id in known else "never asked"
            raise RuntimeError(
                f"{type(model).__name__}: a response to request {response.request_id!r}, which was {fault}"
            )
        yield request, response
    if open_requests:
        first = next(iter(open_requests))
        raise RuntimeError(f"{type(model).__name__}: {len(open_requests)} requests left unanswered, first {first!r}")


def _repeated(ids: Iterable[str]) -> str | None:
    """The first id that was there before."""
    seen: set[str] = set()
    for id_ in ids:
        if id_ in seen:
            return id_
        seen.add(id_)
    return None


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()
