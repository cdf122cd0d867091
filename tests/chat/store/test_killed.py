"""A large job against a server full of faults, killed again and again: nothing lost, twice or unexplained."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import introspect
from introspect.chat.store import ResponseStore
from tests.chat.remote.serving import LASTING, PASSING, Behaviour, Served, answer_to, question

REQUESTS, KILLS, CONCURRENCY = 20_000, 3, 256
PASSING_SHARE, LASTING_SHARE, LENGTH_SHARE = 0.08, 0.02, 0.05
REASONS = {"refused": "refused", "too-long": "too_long", "filter": "content_filter", "declined": "content_filter"}

# A shell that starts the tests in the background has them ignore interrupts, and what they start inherits it.
WORKER = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from introspect.chat.protocol import ChatRequest, Message
from introspect.chat.remote.openai import OpenAIChat
from introspect.chat.remote.retry import RetryPolicy
from introspect.chat.store import ResponseStore, answer
from tests.chat.remote.serving import question
url, path = sys.argv[1:]
policy = RetryPolicy(base_s=0.02, cap_s=0.1, timeout_s=0.8)
model = OpenAIChat("m", base_url=url, concurrency={CONCURRENCY}, retry=policy, max_failure_rate=0.05)
requests = (ChatRequest(str(n), (Message("user", question(n)),)) for n in range({REQUESTS}))
with ResponseStore(path) as store:
    print("answered", sum(1 for _ in answer(model, requests, store)))
"""


def start(url: str, path: Path) -> subprocess.Popen[str]:
    roots = [str(Path(introspect.__file__).parents[1]), str(Path(__file__).parents[3])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
    command = [sys.executable, "-c", WORKER, url, str(path)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def stored(path: Path) -> int:
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30) as db:
            return int(db.execute("SELECT count(*) FROM responses").fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_every_question_is_answered_once_or_failed_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    shares = {name: PASSING_SHARE / len(PASSING) for name in PASSING}
    shares |= {name: LASTING_SHARE / len(LASTING) for name in LASTING}
    behaviour = Behaviour(shares=shares, length_share=LENGTH_SHARE)
    options = f"--faults {PASSING_SHARE} --lasting {LASTING_SHARE} --length {LENGTH_SHARE} --latency 0.02".split()
    kept = []
    began = time.monotonic()
    with Served(*options) as server:
        for kill in range(1, KILLS + 1):
            worker = start(server.url, path)
            while stored(path) < REQUESTS * kill // (KILLS + 2) and worker.poll() is None:
                time.sleep(0.02)
            worker.kill()
            assert worker.wait() == -signal.SIGKILL
            with ResponseStore(path) as store:  # not read-only: SQLite may have to tidy up after the kill
                kept.append(len(store))
        worker = start(server.url, path)
        output, _ = worker.communicate(timeout=120)
        stats = server.stats()
    assert worker.returncode == 0

    faults = {n: behaviour.fault(question(n)) for n in range(REQUESTS)}
    lasting = {str(n): REASONS[fault] for n, fault in faults.items() if fault in REASONS}
    with ResponseStore(path) as store:
        answers = {json.loads(row["request"])["id"]: row for row in store.rows()}
        assert len(answers) == len(store)  # none is there twice
        failures = {json.loads(failure.request)["id"]: failure.reason for failure in store.failures()}
    limited = sum(row["finish_reason"] == "length" for row in answers.values())
    print(
        f"\n{REQUESTS} questions, {KILLS} kills (stored at each: {kept}), {time.monotonic() - began:.0f} s:"
        f" {len(answers)} answered ({limited} at the limit), {len(failures)} failed {dict(Counter(failures.values()))},"
        f" {REQUESTS - len(answers) - len(failures)} lost, {len(answers.keys() & failures.keys())} in both;"
        f" the server saw {stats['requests']} requests, {sum(stats['faults'].values())} of them met a fault"
        f" {stats['faults']}, and answered {stats['answered_again']} again that were in flight at a kill"
    )
    assert failures == lasting
    assert answers.keys() | failures.keys() == {str(n) for n in range(REQUESTS)}
    assert not answers.keys() & failures.keys()
    for n in range(REQUESTS):
        if (row := answers.get(str(n))) is not None:
            # A slow answer may meet the time limit on a busy machine; asked again, a long one is cut off at once.
            is_cut = behaviour.is_long(question(n)) and row["finish_reason"] == "length"
            expected = "" if is_cut else answer_to(question(n))
            assert expected in row["content"], n
            assert row["reasoning"] == f"Looking up {question(n)}"
    # Each kill loses no more than what was in flight, or finished but not yet seen; the rest was asked once.
    assert kept == sorted(kept)
    assert stats["answered_again"] <= KILLS * 2 * CONCURRENCY
    assert f"answered {len(answers)}" in output
    assert stats["faults"].keys() >= {*PASSING, *LASTING} - {"slow"}


def test_ctrl_c_stops_at_once_and_keeps_what_was_finished(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    with Served("--latency", "0.05") as server:
        worker = start(server.url, path)
        while stored(path) < 500 and worker.poll() is None:
            time.sleep(0.02)
        before = stored(path)
        worker.send_signal(signal.SIGINT)
        output, _ = worker.communicate(timeout=300)
        answers = server.stats()["answers"]
    assert worker.returncode != 0
    assert "answered" not in output
    # What the server had answered and the client received is kept; only what was on its way is not.
    assert before <= stored(path) <= answers
    assert answers - stored(path) <= CONCURRENCY
