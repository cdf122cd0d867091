"""The SQLite file of responses and failures, and their keys."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from introspect.chat.protocol import ChatFailure, ChatRequest, ChatResponse
from introspect.chat.usage import Usage
from introspect.core.errors import InputError

# Part of every key: a new number makes all stored responses unreachable.
KEY_SCHEMA = 1
# Of the tables: version 1 had no failures. Opening an older file adds what it lacks.
VERSION = 2
# SQLite's application id of a response store: "INTR".
APPLICATION = 0x494E5452
# Seconds to wait for another process that is writing; a write takes milliseconds.
_TIMEOUT_S = 60.0
# Keys in one SELECT statement.
_LOOKUPS = 500

_COLUMNS = "reasoning, content, finish_reason, prompt_tokens, completion_tokens, reasoning_tokens"
_RESPONSES = """CREATE TABLE IF NOT EXISTS responses (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, request TEXT NOT NULL, reasoning TEXT NOT NULL, content TEXT NOT NULL,
    finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL, created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"""
# A request is in at most one of the two tables: a response removes earlier failures.
_FAILURES = """CREATE TABLE IF NOT EXISTS failures (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, request TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
    attempts INTEGER NOT NULL, created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"""


class Failure(NamedTuple):
    """A request that failed and has no response since.

    Attributes:
        key: of the request.
        model: identity of the model, as JSON.
        request: the request, as JSON.
        reason: see `ChatFailure`.
        detail: see `ChatFailure`.
        attempts: number of times it was sent.
        created: time, in UTC.
    """

    key: str
    model: str
    request: str
    reason: str
    detail: str
    attempts: int
    created: str


def request_key(identity: Mapping[str, str], request: ChatRequest) -> str:
    """Return the key of a response: the SHA-256 of all that determines it, which the request's id does not.

    Args:
        identity: of the model.
        request: the request.
    """
    sampling = _plain(request.sampling)
    content = {
        "schema": KEY_SCHEMA,
        "model": dict(identity),
        "messages": request.messages,
        # 1 and 1.0 are the same setting.
        "sampling": sampling | {name: float(sampling[name]) for name in ("temperature", "top_p")},
        "sample": request.sample,
        "example": None if request.example is None else _digest(request.example),
    }
    return _digest(content)


class ResponseStore:
    """A SQLite file with one row per response, committed as it arrives; a context manager.

    Any number of processes may use the same file. Killing one loses only what it had not yet put. Each row also has the
    request and the model's identity as JSON, readable with any SQLite tool. Requests that failed are in a second table,
    with the reason, until they have a response.

    Args:
        path: of the file, which is created with its folder if absent.

    Raises:
        InputError: the file is not a response store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=_TIMEOUT_S, isolation_level=None)
            self.is_open = True
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
        """Close the file for good."""
        self.is_open = False
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all that is put inside together at the end, many times faster than one by one.

        Raises:
            InputError: the file cannot be written: the disk is full, or another process locks it.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:  # SQLite itself ends it if the disk is full
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise InputError(
                    f"{self.path}: cannot be written ({error}): what was stored before is kept, the same command makes"
                    " the rest"
                ) from error
            raise

    def get(self, key: str, request: ChatRequest) -> ChatResponse | None:
        """Return the response of a key, with the id of this request; None if there is none."""
        return self.get_all({key: request}).get(key)

    def get_all(self, requests: Mapping[str, ChatRequest]) -> dict[str, ChatResponse]:
        """Return the stored responses by key, each with the id of the request that is given for its key."""
        found = {}
        keys = list(requests)
        for start in range(0, len(keys), _LOOKUPS):
            chunk = keys[start : start + _LOOKUPS]
            places = ", ".join("?" * len(chunk))
            for key, reasoning, content, finish_reason, *counts in self._db.execute(
                f"SELECT key, {_COLUMNS} FROM responses WHERE key IN ({places})", chunk
            ):
                found[key] = ChatResponse(requests[key].id, reasoning, content, finish_reason, Usage(*counts))
        return found

    def put(self, key: str, identity: Mapping[str, str], request: ChatRequest, response: ChatResponse) -> ChatResponse:
        """Store a response and return the stored one: the first response of a key stays."""
        usage = response.usage
        values = (
            key,
            _canonical(dict(identity)),
            _shown(request),
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
        self._db.execute("DELETE FROM failures WHERE key = ?", (key,))
        return response if inserted else self.get(key, request) or response

    def put_failure(self, key: str, identity: Mapping[str, str], request: ChatRequest, failure: ChatFailure) -> None:
        """Record the last failure of a request, unless it has a response."""
        values = (key, _canonical(dict(identity)), _shown(request), failure.reason, failure.detail, failure.attempts)
        self._db.execute(
            "INSERT OR REPLACE INTO failures (key, model, request, reason, detail, attempts)"
            " SELECT ?, ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM responses WHERE key = ?)",
            (*values, key),
        )

    def failures(self) -> list[Failure]:
        """Return the failures of requests without a response, oldest first."""
        columns = ", ".join(Failure._fields)
        return [Failure(*row) for row in self._db.execute(f"SELECT {columns} FROM failures ORDER BY created, key")]

    def models(self) -> list[str]:
        """Return the names of all models with responses."""
        names = self._db.execute("SELECT DISTINCT model ->> '$.model' FROM responses ORDER BY 1")
        return [str(name) for (name,) in names]

    def rows(self, model: str | None = None) -> Iterator[Mapping[str, Any]]:
        """Yield every response as its columns, in order of the key; only those of one model, if its name is given."""
        cursor = self._db.execute(
            f"SELECT key, model, request, {_COLUMNS}, created FROM responses"
            " WHERE ? IS NULL OR model ->> '$.model' = ? ORDER BY key",
            (model, model),
        )
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))

    def merge(self, source: str | Path) -> tuple[int, int]:
        """Copy the responses and failures of another store that this one lacks. The other file is only read.

        Merging twice, or in another order, gives the same responses, unless the stores have different responses to the
        same request: then the first one stays.

        Args:
            source: the other file.

        Returns:
            The number of responses and of failures that were copied.

        Raises:
            InputError: the other file is not a response store.
        """
        self._attach(Path(source))
        try:
            with self.transaction():
                columns = f"key, model, request, {_COLUMNS}, created"
                answered = self._db.execute(
                    f"INSERT OR IGNORE INTO responses ({columns}) SELECT {columns} FROM other.responses"
                ).rowcount
                self._db.execute("DELETE FROM failures WHERE key IN (SELECT key FROM responses)")
                failed = 0
                if self._pragma("user_version", "other") >= 2:
                    names = ", ".join(Failure._fields)
                    failed = self._db.execute(
                        f"INSERT OR IGNORE INTO failures ({names}) SELECT {names} FROM other.failures"
                        " WHERE key NOT IN (SELECT key FROM responses)"
                    ).rowcount
            return answered, failed
        finally:
            self._db.execute("DETACH other")

    def _attach(self, source: Path) -> None:
        if not source.is_file():
            raise InputError(f"{source}: no such response store")
        if self.path.is_file() and source.samefile(self.path):
            raise InputError(f"{source}: a store cannot be merged into itself")
        try:
            self._db.execute("ATTACH ? AS other", (str(source),))
            mark, version = self._pragma("application_id", "other"), self._pragma("user_version", "other")
        except sqlite3.Error as error:
            raise InputError(f"{source}: expected a response store (a SQLite file): {error}") from error
        if mark != APPLICATION or not 1 <= version <= VERSION:
            self._db.execute("DETACH other")
            raise InputError(f"{source}: expected a response store of version 1 to {VERSION}")

    def _prepare(self) -> None:
        """Check the file, create the tables that it lacks, and use write-ahead logging."""
        is_new = not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if is_new:
            self._enter_wal()
        elif self._pragma("application_id") != APPLICATION:
            raise InputError(f"{self.path}: a SQLite file, but not a response store")
        version = self._pragma("user_version")
        if not (is_new or 1 <= version <= VERSION):
            raise InputError(
                f"{self.path}: a response store of version {version}; this program reads versions 1 to {VERSION}"
            )
        if version < VERSION:
            with self.transaction():  # another process may do the same at this moment
                self._db.execute(_RESPONSES)
                self._db.execute(_FAILURES)
                self._db.execute(f"PRAGMA application_id = {APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {VERSION}")
        # A process that is killed loses nothing it committed; a power failure may lose the last responses.
        self._db.execute("PRAGMA synchronous = NORMAL")

    def _pragma(self, name: str, database: str = "main") -> int:
        return int(self._db.execute(f"PRAGMA {database}.{name}").fetchone()[0])

    def _enter_wal(self) -> None:
        """If two processes open a new file, SQLite fails one of them here immediately, despite its timeout: retry."""
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def _shown(request: ChatRequest) -> str:
    """Return a request as JSON for people, with only the id of its example."""
    return _canonical(_plain(request) | {"example": request.example.id if request.example else None})


def _plain(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass; `_canonical` converts nested ones."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def _digest(content: Any) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()
