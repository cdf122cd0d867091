"""Failures, files of older versions, merging, exporting, and stopping in the middle."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from introspect.chat.protocol import ChatFailure, ChatModel, ChatRequest, ChatResponse, Message, Sampling
from introspect.chat.store import ResponseStore, answer, request_key
from introspect.chat.store.__main__ import main
from introspect.chat.usage import Usage
from introspect.core.errors import InputError
from tests.chat.store.test_store import EXAMPLE, IDENTITY, Echo, request


class Failing(Echo):
    """Echoes, but gives up on the requests whose text it is told."""

    def __init__(self, *texts: str, rate: float = 1.0, identity: Mapping[str, str] = IDENTITY) -> None:
        super().__init__(identity)
        self.texts, self.max_failure_rate = texts, rate

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse | ChatFailure]:  # type: ignore[override]
        for asked in requests:
            self.asked.append(asked.id)
            if asked.messages[-1].content in self.texts:
                yield ChatFailure(asked.id, "refused", "400: [no]", 2)
            else:
                yield ChatResponse(asked.id, "t", asked.messages[-1].content, "stop", Usage(1, 1, 0))


def requests(count: int) -> list[ChatRequest]:
    return [request(str(number), f"text {number}") for number in range(count)]


def test_failures_are_recorded_left_out_and_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "responses.sqlite"
    with ResponseStore(path) as store:
        pairs = list(answer(Failing("text 1", "text 3"), requests(5), store))
        assert [asked.id for asked, _ in pairs] == ["0", "2", "4"]
        [first, second] = store.failures()
        assert {json.loads(failure.request)["id"] for failure in (first, second)} == {"1", "3"}
        assert (first.reason, first.detail, first.attempts) == ("refused", "400: [no]", 2)
        assert "2 of 5 requests failed and are left out: 2 refused" in caplog.text
        shown = capsys.readouterr().out
        assert "refused" in shown
        assert "400: [no]" in shown
        again = Failing("text 3")
        assert [asked.id for asked, _ in answer(again, requests(5), store)] == ["0", "2", "4", "1"]
        assert again.asked == ["1", "3"]
        # What is answered is no failure any more, and a failure never takes the place of an answer.
        assert [json.loads(failure.request)["id"] for failure in store.failures()] == ["3"]
        store.put_failure(request_key(IDENTITY, requests(1)[0]), IDENTITY, requests(1)[0], ChatFailure("0", "x"))
        assert len(store.failures()) == 1


@pytest.mark.parametrize("stored", [True, False])
def test_too_many_failures_end_the_run_after_everything_else_was_answered(stored: bool, tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "r.sqlite") if stored else None
    answers = answer(Failing("text 0", "text 1", rate=0.1), requests(10), store)
    seen = []
    with pytest.raises(InputError, match=r"2 of 10 requests failed, more than max_failure_rate=0.1 allows: 2 refused"):
        seen.extend(answers)
    assert store is None or len(store) == 8
    assert len(list(answer(Failing("text 0", rate=0.1), requests(10)))) == 9
    model = Failing("text 0")
    del model.max_failure_rate  # by default none may fail
    with pytest.raises(InputError, match="max_failure_rate=0 allows"):
        list(answer(model, requests(100)))
    with pytest.raises(InputError, match="3 of 3 requests failed"):  # requests of the same content fail together
        list(answer(Failing("text 1", rate=0.5), [request(i, "text 1") for i in "abc"]))


class Halting(ChatModel):
    """Answers in bursts, as a server does, and breaks off in the middle."""

    identity = IDENTITY
    concurrency = 4

    def __init__(self, stop: BaseException) -> None:
        self.stop, self.is_closed = stop, False

    def generate(self, asked: Iterable[ChatRequest]) -> Halting:
        self.source = iter(asked)
        self.ready: list[ChatResponse] = []
        self.bursts = 0
        return self

    def __iter__(self) -> Halting:
        return self

    def __next__(self) -> ChatResponse:
        self.bursts += 1
        burst = [next(self.source) for _ in range(4)]
        self.ready += [ChatResponse(a.id, "", a.messages[-1].content, "stop", Usage(1, 1, 0)) for a in burst]
        if self.bursts == 3:
            raise self.stop
        return self.ready.pop(0)

    def take(self) -> list[ChatResponse]:
        taken, self.ready = self.ready, []
        return taken

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), InputError("the server is gone")])
def test_who_stops_in_the_middle_keeps_what_was_finished(
    stop: BaseException, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model, path = Halting(stop), tmp_path / "r.sqlite"
    seen = []
    with ResponseStore(path) as store:
        answers = answer(model, requests(100), store)
        seen.append(next(answers))
        with sqlite3.connect(path) as other:  # what arrives together is committed together
            assert other.execute("SELECT count(*) FROM responses").fetchone() == (4,)
        with pytest.raises(type(stop)):
            seen.extend(answers)
        # Two bursts of four were seen; the third was finished when the run stopped.
        assert len(store) == 12
        assert model.is_closed
        assert "stopped with 12 responses made and kept" in caplog.text


def test_requests_are_read_as_they_are_needed(tmp_path: Path) -> None:
    read = 0

    def endless() -> Iterator[ChatRequest]:
        nonlocal read
        while True:
            read += 1
            yield request(str(read), f"text {read}")

    with ResponseStore(tmp_path / "r.sqlite") as store:
        list(answer(Failing(), [request(str(n), f"text {n}") for n in range(1, 2001)], store))
        answers = answer(Failing(), endless(), store)
        for number in range(1, 3001):
            asked, _ = next(answers)
            assert asked.id == str(number)
            assert read <= number + 2 * 512
        answers.close()


def old_store(path: Path, version: int = 1) -> None:
    """A file as version 1 wrote it, with one response."""
    texts = [f"{name} TEXT NOT NULL" for name in ("model", "request", "reasoning", "content", "finish_reason")]
    counts = [f"{name}_tokens INTEGER NOT NULL" for name in ("prompt", "completion", "reasoning")]
    columns = ["key TEXT PRIMARY KEY", *texts, *counts, "created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP"]
    row = "(?, '{}', '{\"id\": \"a\"}', 'r', 'old answer', 'stop', 1, 2, 1, '2025-01-01')"
    with sqlite3.connect(path) as db:
        db.execute(f"CREATE TABLE responses ({', '.join(columns)})")
        db.execute("PRAGMA application_id = 1229870162")
        db.execute(f"PRAGMA user_version = {version}")
        db.execute(f"INSERT INTO responses VALUES {row}", [request_key(IDENTITY, request("a", "old question"))])


def test_keys_of_version_1_are_still_those_of_today() -> None:
    """What these requests were filed under when the first stores were written."""
    assert request_key(IDENTITY, request("a")) == "3e23f73527011b4574f733583e07b3d8f7455e023c61b67b59a185aadd0640c5"
    about = replace(request("a"), example=EXAMPLE)
    assert request_key(IDENTITY, about) == "ed974924ab8dc0b532d582edae1280ba3bda903f40df86d2728b0b8f7c06f1aa"


def test_a_file_of_version_1_is_brought_up_to_date_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    old_store(path)
    model = Failing("new")
    with ResponseStore(path) as store, ResponseStore(path) as second:
        pairs = list(answer(model, [request("x", "old question"), request("y", "new")], store))
        assert [(asked.id, reply.content) for asked, reply in pairs] == [("x", "old answer")]
        assert model.asked == ["y"]
        assert len(second.failures()) == 1
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)


def filled(path: Path, numbers: Iterable[int], *fail: str) -> Path:
    with ResponseStore(path) as store:
        list(answer(Failing(*fail), [request(str(n), f"text {n}") for n in numbers], store))
    return path


def contents(path: Path) -> dict[str, str]:
    with ResponseStore(path) as store:
        return {row["key"]: row["content"] for row in store.rows()}


def test_merging_is_idempotent_and_order_does_not_matter(tmp_path: Path) -> None:
    a = filled(tmp_path / "a.sqlite", range(6), "text 1", "text 2")
    b = filled(tmp_path / "b.sqlite", range(2, 9), "text 8")
    with ResponseStore(tmp_path / "ab.sqlite") as store:
        assert store.merge(a) == (4, 2)
        assert store.merge(b) == (3, 1)  # 2, which failed in a, 6 and 7; and the failure of 8
        before = (sorted(row["key"] for row in store.rows()), store.failures())
        assert (store.merge(b), store.merge(a)) == ((0, 0), (0, 0))
        assert (sorted(row["key"] for row in store.rows()), store.failures()) == before
        assert {json.loads(failure.request)["id"] for failure in store.failures()} == {"1", "8"}
    with ResponseStore(tmp_path / "ba.sqlite") as store:
        store.merge(b)
        store.merge(a)
        assert {json.loads(failure.request)["id"] for failure in store.failures()} == {"1", "8"}
    assert contents(tmp_path / "ab.sqlite") == contents(tmp_path / "ba.sqlite")
    assert len(contents(tmp_path / "ab.sqlite")) == 7


def test_old_files_are_merged_without_being_changed(tmp_path: Path) -> None:
    old = tmp_path / "old.sqlite"
    old_store(old)
    before = old.read_bytes()
    with ResponseStore(tmp_path / "new.sqlite") as store:
        assert store.merge(old) == (1, 0)
    assert old.read_bytes() == before
    with ResponseStore(tmp_path / "new.sqlite") as store:
        assert [row["created"] for row in store.rows()] == ["2025-01-01"]


def test_what_can_not_be_merged(tmp_path: Path) -> None:
    text, foreign, newer = tmp_path / "notes.txt", tmp_path / "other.sqlite", tmp_path / "newer.sqlite"
    text.write_text("no database, but long enough to be looked at " * 50)
    sqlite3.connect(foreign).execute("CREATE TABLE responses (key TEXT)").connection.close()
    old_store(newer, version=9)
    with ResponseStore(tmp_path / "r.sqlite") as store:
        for source in (text, foreign, newer):
            with pytest.raises(InputError, match=f"{source.name}: expected a response store"):
                store.merge(source)
        with pytest.raises(InputError, match="no such response store"):
            store.merge(tmp_path / "absent.sqlite")
        with pytest.raises(InputError, match="into itself"):
            store.merge(tmp_path / "r.sqlite")
        assert store.merge(filled(tmp_path / "a.sqlite", range(2))) == (2, 0)
    assert not (tmp_path / "absent.sqlite").exists()


COLUMNS = {"sample_id", "rollout_id", "prompt", "response", "valid", "reasoning_trace", "predicted_answer"}


def exported(tmp_path: Path) -> Path:
    path = tmp_path / "r.sqlite"
    asked = ChatRequest("e/1", (Message("user", "wh?t ü"),), Sampling(seed=1), 1, EXAMPLE)
    with ResponseStore(path) as store:
        for model, reason, content in (("m", "stop", "<answer>a</answer>"), ("n", "length", "half")):
            identity = {"model": model}
            reply = ChatResponse("e/1", "so", content, reason, Usage(3, 4, 2))
            store.put(request_key(identity, asked), identity, asked, reply)
    return path


def test_exporting_to_parquet_and_to_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import datasets
    import pyarrow.parquet as pq

    path = exported(tmp_path)
    assert main(["export", str(path), str(tmp_path / "out" / "r.parquet")]) == 0
    assert capsys.readouterr().out.endswith("r.parquet: 2 responses\n")
    table = pq.read_table(tmp_path / "out" / "r.parquet")
    rows = sorted(table.to_pylist(), key=lambda row: row["model"])
    numbers = dict.fromkeys(("rollout_id", "prompt_tokens", "reasoning_tokens", "completion_tokens"), "int64")
    texts = {"content", "finish_reason", "model", "sampling", "key", "created"}
    kinds = dict.fromkeys((COLUMNS | texts), "string") | numbers | {"valid": "bool"}
    assert {field.name: str(field.type) for field in table.schema} == kinds
    assert {name: rows[0][name] for name in COLUMNS} == {
        "sample_id": "e",
        "rollout_id": 2,
        "prompt": '[{"content": "wh?t ü", "role": "user"}]',
        "response": "<think>\nso\n</think>\n\n<answer>a</answer>",
        "valid": True,
        "reasoning_trace": "so",
        "predicted_answer": "a",
    }
    assert [row["valid"] for row in rows] == [True, False]
    assert main(["export", str(path), str(tmp_path / "set"), "--model", "n"]) == 0
    data = datasets.load_from_disk(str(tmp_path / "set"))
    assert data["finish_reason"][:] == ["length"]
    assert (data["prompt_tokens"][0], data["completion_tokens"][0]) == (3, 4)


def test_the_command_merges_lists_failures_and_names_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = filled(tmp_path / "a.sqlite", range(3), "text 1")
    b = filled(tmp_path / "b.sqlite", range(3, 5))
    capsys.readouterr()
    assert main(["merge", str(tmp_path / "all.sqlite"), str(a), str(b)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{a}: 2 responses and 1 failures are new",
        f"{b}: 2 responses and 0 failures are new",
        f"{tmp_path / 'all.sqlite'}: 4 responses, 1 failures",
    ]
    assert main(["failures", str(tmp_path / "all.sqlite")]) == 0
    line, summary = capsys.readouterr().out.splitlines()
    assert line.endswith("echo  1  refused, 2 attempts: 400: [no]")
    assert summary == "1 failures: 1 refused"
    assert main(["failures", str(tmp_path / "all.sqlite"), "--reason", "timeout"]) == 0
    assert capsys.readouterr().out == "0 failures\n"
    assert main(["failures", str(tmp_path / "absent.sqlite")]) == 2
    assert "no such response store" in capsys.readouterr().err
    assert main(["export", str(a), str(tmp_path / "x.parquet"), "--model", "other"]) == 2
    assert "no responses of model other; those here are of echo" in capsys.readouterr().err
    assert main(["export", str(a), str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert not list(tmp_path.glob("x.parquet*"))


def test_progress_shows_what_answers_cost(caplog: pytest.LogCaptureFixture) -> None:
    from introspect.chat.usage import UsageCounter
    from introspect.core.progress import track

    caplog.set_level(logging.INFO)
    model = Failing()
    model.usage = UsageCounter()
    model.usage.attempt(Usage(1000, 2000, 500))
    assert len(list(track(answer(model, requests(3)), description="drafts", total=3))) == 3
    assert any(
        line.startswith("drafts: 3/3") and line.endswith("; 1.0k in, 2.0k out (500 reasoning)")
        for line in caplog.messages
    )
