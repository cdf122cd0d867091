from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import introspect
from introspect.benchmarks.examples import Document, EvidenceStep, MultiHopExample
from introspect.chat.protocol import ChatModel, ChatRequest, ChatResponse, Message, Sampling
from introspect.chat.store import ResponseStore, answer, request_key
from introspect.chat.usage import Usage
from introspect.core.errors import InputError

IDENTITY = {"model": "echo", "template": "t"}
EXAMPLE = MultiHopExample(
    id="e",
    benchmark="b",
    question="q",
    answer="a",
    documents=(Document("T", ("S.",), 0),),
    evidence=(EvidenceStep(0, "S."),),
    hops=2,
    tier="easy",
)


def request(id_: str, text: str = "hello", sample: int = 0) -> ChatRequest:
    return ChatRequest(id_, (Message("user", text),), Sampling(seed=1), sample)


class Echo(ChatModel):
    """Answers with the prompt, last request first, and remembers what it was asked."""

    identity = IDENTITY

    def __init__(self, identity: Mapping[str, str] = IDENTITY) -> None:
        self.identity = identity
        self.asked: list[str] = []

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse]:
        for asked in reversed(list(requests)):
            self.asked.append(asked.id)
            yield ChatResponse(asked.id, "thought", f"{asked.messages[-1].content} ü", "stop", Usage(3, 4, 1))


def test_answers_are_joined_on_ids_and_stored(tmp_path: Path) -> None:
    requests = [request(str(number), f"text {number}") for number in range(5)]
    with ResponseStore(tmp_path / "new" / "folder" / "responses.sqlite") as store:
        pairs = list(answer(Echo(), requests, store))
        assert [asked.id for asked, _ in pairs] == ["4", "3", "2", "1", "0"]
        for asked, response in pairs:
            assert response == ChatResponse(
                asked.id, "thought", f"{asked.messages[0].content} ü", "stop", Usage(3, 4, 1)
            )
        assert len(store) == 5


def test_stored_answers_come_first_and_only_the_missing_are_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    requests = [request(str(number), f"text {number}") for number in range(6)]
    path = tmp_path / "responses.sqlite"
    with ResponseStore(path) as store:
        first = dict(answer(Echo(), requests[3:5], store))
    again = Echo()
    with ResponseStore(path) as store, caplog.at_level(logging.INFO):
        pairs = list(answer(again, requests, store))
    assert [asked.id for asked, _ in pairs] == ["3", "4", "5", "2", "1", "0"]
    assert again.asked == ["5", "2", "1", "0"]
    assert first.items() <= dict(pairs).items()
    assert "2 of 6 responses stored, 4 to be made" in caplog.text


def test_responses_are_committed_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    with ResponseStore(path) as store:
        pairs = answer(Echo(), [request("a", "1"), request("b", "2")], store)
        for count in (1, 2):
            next(pairs)
            with sqlite3.connect(path) as other:
                assert other.execute("SELECT count(*) FROM responses").fetchone() == (count,)


def test_the_same_content_is_the_same_answer_under_any_id(tmp_path: Path) -> None:
    model = Echo()
    with ResponseStore(tmp_path / "responses.sqlite") as store:
        pairs = list(answer(model, [request("a"), request("b"), request("c", sample=1)], store))
        assert sorted(response.request_id for _, response in pairs) == ["a", "b", "c"]
        assert all(asked.id == response.request_id for asked, response in pairs)
        assert sorted(model.asked) == ["a", "c"]
        [(_, response)] = answer(model, [request("d")], store)
        assert response.request_id == "d"
        assert len(model.asked) == 2


CHANGES: dict[str, Callable[[ChatRequest], ChatRequest]] = {
    "text": lambda r: replace(r, messages=(Message("user", "hello "),)),
    "role": lambda r: replace(r, messages=(Message("system", "hello"),)),
    "turns": lambda r: replace(r, messages=(*r.messages, *r.messages)),
    "sample": lambda r: replace(r, sample=1),
    "example": lambda r: replace(r, example=EXAMPLE),
    "seed": lambda r: replace(r, sampling=replace(r.sampling, seed=2)),
    "temperature": lambda r: replace(r, sampling=replace(r.sampling, temperature=0.7)),
    "top_p": lambda r: replace(r, sampling=replace(r.sampling, top_p=0.9)),
    "top_k": lambda r: replace(r, sampling=replace(r.sampling, top_k=0)),
    "max_tokens": lambda r: replace(r, sampling=replace(r.sampling, max_tokens=9)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_another_request_never_meets_an_old_answer(change: Callable[[ChatRequest], ChatRequest]) -> None:
    assert request_key(IDENTITY, change(request("a"))) != request_key(IDENTITY, request("a"))


def test_key_is_that_of_the_content() -> None:
    key = request_key(IDENTITY, request("a"))
    assert key == request_key(IDENTITY, request("another id"))
    assert key == request_key({"template": "t", "model": "echo"}, request("a"))
    assert key != request_key({"model": "echo", "template": "u"}, request("a"))
    assert key != request_key({"model": "echo"}, request("a"))
    # 1 and 1.0 are the same setting; another answer in the example is another question to an oracle.
    whole, real = (replace(request("a"), sampling=Sampling(temperature=t, top_p=t)) for t in (1, 1.0))
    assert request_key(IDENTITY, whole) == request_key(IDENTITY, real)
    examples = (replace(request("a"), example=e) for e in (EXAMPLE, replace(EXAMPLE, answer="b")))
    assert len({request_key(IDENTITY, asked) for asked in examples}) == 2


def test_the_first_answer_stands(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    key, asked = request_key(IDENTITY, request("a")), request("a")
    early = ChatResponse("a", "", "early", "stop", Usage(1, 1, 0))
    with ResponseStore(path) as one, ResponseStore(path) as two:
        assert one.put(key, IDENTITY, asked, early) == early
        assert two.put(key, IDENTITY, asked, replace(early, content="late")) == early
        assert two.get(key, asked) == early


def test_rows_can_be_read_by_people(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    with ResponseStore(path) as store:
        list(answer(Echo(), [replace(request("a", "what?"), example=EXAMPLE)], store))
    with sqlite3.connect(path) as other:
        [(text, model, example)] = other.execute(
            "SELECT request ->> '$.messages[0].content', model ->> '$.model', request ->> '$.example' FROM responses"
        )
    assert (text, model, example) == ("what?", "echo", "e")


def test_on_response_sees_every_pair_with_and_without_a_store(tmp_path: Path) -> None:
    seen: list[str] = []
    model = Echo()
    pairs = list(answer(model, (request(i) for i in "ab"), None, lambda asked, _: seen.append(asked.id)))
    assert [asked.id for asked, _ in pairs] == seen == model.asked == ["b", "a"]
    assert list(answer(model, [])) == []
    seen.clear()
    with ResponseStore(tmp_path / "responses.sqlite") as store:
        list(answer(Echo(), [request("a", "1")], store))
        list(answer(Echo(), [request("a", "1"), request("b", "2")], store, lambda asked, _: seen.append(asked.id)))
    assert seen == ["a", "b"]


def test_repeated_request_ids_are_an_error() -> None:
    twice = [request("b", "0"), request("a", "1"), request("a", "2")]
    model = Echo()
    for requests in (twice, iter(twice)):
        with pytest.raises(ValueError, match="'a' occurs more than once"):
            list(answer(model, requests))
    assert model.asked == []


class Broken(Echo):
    """Answers the ids it is told to, whatever it was asked."""

    def __init__(self, ids: str) -> None:
        super().__init__()
        self.ids = ids

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse]:
        return (ChatResponse(id_, "", "", "stop", Usage(1, 1, 0)) for id_ in self.ids)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("ax", "'x', which is not pending"),
        ("aa", "'a', which is not pending"),
        ("a", "1 requests left unanswered"),
    ],
)
@pytest.mark.parametrize("stored", [True, False])
def test_a_model_that_breaks_the_protocol_is_named(ids: str, message: str, stored: bool, tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "responses.sqlite") if stored else None
    with pytest.raises(RuntimeError, match=f"Broken.*{message}"):
        list(answer(Broken(ids), [request("a", "1"), request("b", "2")], store))


def test_files_that_are_not_a_store_are_refused_and_left_alone(tmp_path: Path) -> None:
    text, foreign, newer = (tmp_path / name for name in ("notes.txt", "foreign.sqlite", "newer.sqlite"))
    text.write_text("no database, but long enough to be looked at " * 50)
    for path in (foreign, newer):
        if path == newer:
            ResponseStore(newer).close()
        with sqlite3.connect(path) as other:
            other.execute("PRAGMA user_version = 99" if path == newer else "CREATE TABLE responses (key TEXT)")
    messages = {
        text: "notes.txt: expected a response store",
        foreign: "a SQLite file, but not a response store",
        newer: "version 99; this program reads versions 1 to 2",
        tmp_path: "cannot be opened",
        text / "below": "cannot be opened",
    }
    before = text.read_bytes(), foreign.read_bytes()
    for path, message in messages.items():
        with pytest.raises(InputError, match=message):
            ResponseStore(path)
    assert (text.read_bytes(), foreign.read_bytes()) == before


WORKER = """
import sys
from tests.chat.store.test_store import Echo, request
from introspect.chat.store import ResponseStore, answer
path, count = sys.argv[1], int(sys.argv[2])
with ResponseStore(path) as store:
    for asked, _ in answer(Echo(), [request(str(n), f"text {n}") for n in range(count)], store):
        print(asked.id, flush=True)
"""


def _worker(path: Path, count: int) -> subprocess.Popen[str]:
    roots = [str(Path(introspect.__file__).parents[1]), str(Path(__file__).parents[3])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
    arguments = [sys.executable, "-c", WORKER, str(path), str(count)]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)


def test_two_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    workers = [_worker(path, 200) for _ in range(3)]
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert all(sorted(map(int, output.split())) == list(range(200)) for output in outputs)
    with ResponseStore(path) as store:
        assert len(store) == 200


def test_a_file_that_can_not_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    with ResponseStore(tmp_path / "s.sqlite") as store:
        store._db.execute("PRAGMA busy_timeout = 20")
        other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InputError, match=r"s\.sqlite: cannot be written \(database is locked\)"):
            list(answer(Echo(), [request("a", "a")], store))
        other.execute("ROLLBACK")
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(InputError, match=r"cannot be written \(database or disk is full\)"):
            list(answer(Echo(), [request("b", "b" * 100_000)], store))
        assert len(store) == 0
        other.close()
