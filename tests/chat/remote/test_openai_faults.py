"""Against a real server on loopback that misbehaves on purpose: tests/chat/remote/serving.py."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from introspect.chat.protocol import ChatFailure, ChatResponse
from introspect.chat.remote.openai import OpenAIChat
from introspect.core.errors import InputError
from tests.chat.remote.asking import QUICK, ask, chat
from tests.chat.remote.serving import KEY, LASTING, PASSING, Serving, question


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_asked_again(fault: str) -> None:
    with Serving(shares={fault: 1.0}, attempts=2) as server:
        model = chat(server, retry=replace(QUICK, timeout_s=1.0 if fault == "stall" else 20.0))
        replies = ask(model, 3)
        assert all(isinstance(reply, ChatResponse) and reply.content for reply in replies.values())
        attempts = 3 if fault != "slow" else 1  # slow is no fault, as long as something comes
        assert server.app.seen.total() == model.usage.attempts == 3 * attempts
    assert model.usage.answered == 3
    assert model.usage.faults.total() == 3 * (attempts - 1)


REASONS = {"refused": "refused", "too-long": "too_long", "filter": "content_filter", "declined": "content_filter"}


@pytest.mark.parametrize("fault", LASTING)
def test_what_lasts_is_a_failure_at_once_and_the_run_goes_on(fault: str) -> None:
    with Serving(shares={fault: 0.5}) as server:
        replies = ask(chat(server), 20)
        assert server.app.seen.total() == 20
        refused = {str(n) for n in range(20) if server.app.behaviour.fault(question(n))}
    failures = {id_: reply for id_, reply in replies.items() if isinstance(reply, ChatFailure)}
    assert set(failures) == refused
    assert 0 < len(refused) < 20
    assert {(failure.reason, failure.attempts) for failure in failures.values()} == {(REASONS[fault], 1)}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("429", "rate_limited"),
        ("503", "server_error"),
        ("reset", "connection"),
        ("cut", "connection"),
        ("stall", "timeout"),
        ("truncated", "malformed"),
        ("empty", "empty"),
    ],
)
def test_what_never_passes_is_a_failure_in_the_end(fault: str, reason: str) -> None:
    with Serving(only=fault) as server:
        model = chat(server, retry=replace(QUICK, attempts=3, timeout_s=0.1 if fault == "stall" else 20.0))
        reply = ask(model)["0"]
        assert server.app.seen.total() == 3
    assert isinstance(reply, ChatFailure)
    assert (reply.reason, reply.attempts) == (reason, 3)
    assert reply.detail
    assert model.usage.metrics()[f"fault/{reason}"] == 3
    assert model.usage.metrics()[f"failure/{reason}"] == 1


def test_a_policy_may_give_up_at_once_or_keep_trying() -> None:
    with Serving(only="503") as server:
        ask(chat(server, retry=replace(QUICK, statuses=())))
        assert server.app.seen.total() == 1
    with Serving(shares={"refused": 1.0}) as server:
        ask(chat(server, retry=replace(QUICK, statuses=(400,), attempts=4)))
        assert server.app.seen.total() == 4
    with Serving(only="empty") as server:
        ask(chat(server, retry=replace(QUICK, reasons=("timeout",))))
        assert server.app.seen.total() == 1


def test_an_answer_at_the_limit_is_kept_or_drawn_again_with_another_seed() -> None:
    with Serving(length_share=1.0, style="reasoning") as server:
        reply = ask(chat(server))["0"]
        assert isinstance(reply, ChatResponse)
        assert (reply.finish_reason, reply.content, reply.finished) == ("length", "", False)
        assert reply.reasoning
        assert server.app.seen.total() == 1
    with Serving(length_share=1.0) as server:
        model = chat(server, retry=replace(QUICK, attempts=3, finish_reasons=("length",)))
        reply = ask(model)["0"]
        seeds = [body["seed"] for body in server.app.bodies]
    assert isinstance(reply, ChatResponse)
    assert reply.finish_reason == "length"
    assert len(set(seeds)) == 3
    assert seeds[0] == 42
    assert model.usage.faults == {"length": 2}
    assert (model.usage.completion_tokens, model.usage.wasted_tokens) == (60, 40)


@pytest.mark.parametrize("then", ["503", "refused", "stall", "truncated"])
def test_an_answer_at_the_limit_is_kept_if_no_other_draw_comes(then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.chat.remote import serving

    complete = serving.Connection.complete

    def once(self: serving.Connection, body: dict[str, Any], prompt: str) -> None:
        complete(self, body, prompt) if self.app.seen[prompt] == 1 else self.misbehave(then, prompt)

    monkeypatch.setattr(serving.Connection, "complete", once)
    policy = replace(QUICK, attempts=3, finish_reasons=("length",), timeout_s=1.0 if then == "stall" else 20.0)
    with Serving(length_share=1.0) as server:
        model = chat(server, retry=policy)
        reply = ask(model)["0"]
        assert server.app.seen.total() > 1
    assert isinstance(reply, ChatResponse)
    assert reply.finish_reason == "length"
    assert (model.usage.answered, model.usage.failed) == (1, 0)


def test_retry_after_is_obeyed() -> None:
    with Serving(shares={"429": 1.0}, retry_after_s=0.6) as server:
        start = time.monotonic()
        ask(chat(server), 4)
    assert time.monotonic() - start >= 0.6


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    with Serving(only="429", retry_after_s=3600) as server:
        start = time.monotonic()
        reply = ask(chat(server))["0"]
    assert time.monotonic() - start < 1800  # of the hour that the server names
    assert isinstance(reply, ChatFailure)
    assert (reply.reason, reply.attempts) == ("rate_limited", 1)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("401", "401: .*check the key"), ("402", "no credit"), ("404", "check base_url and model")],
)
def test_what_fails_every_request_stops_the_run_with_one_line(fault: str, words: str) -> None:
    with Serving(only=fault) as server, pytest.raises(InputError, match=words) as caught:
        ask(chat(server), 500)
    assert "\n" not in str(caught.value)


def test_the_breaker_pauses_everything_and_goes_on_when_the_server_is_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    policy = replace(QUICK, attempts=20, breaker_failures=10, breaker_pause_s=0.2, breaker_pauses=20)
    with Serving() as server:
        port = server.port
    # Nothing listens there now; the server comes back when that has been noticed.
    back = Serving()
    back.port = port

    class Return(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "pausing" in record.getMessage() and "time 2 of" in record.getMessage():
                threading.Thread(target=back.__enter__).start()

    monkeypatch.setattr(logging.getLogger("introspect"), "handlers", [Return()])
    model = OpenAIChat("m", base_url=f"http://127.0.0.1:{port}/v1", retry=policy, concurrency=16)
    replies = ask(model, 40)
    assert all(isinstance(reply, ChatResponse) for reply in replies.values())
    assert "pausing" in caplog.text
    assert "answers again after" in caplog.text
    back.__exit__(None, None, None)


def test_a_server_that_never_comes_back_ends_the_run_and_says_how_to_go_on() -> None:
    policy = replace(QUICK, breaker_failures=10, breaker_pause_s=0.05, breaker_pauses=3)
    with Serving() as server:
        address = server.url
    model = OpenAIChat("m", base_url=address, retry=policy, concurrency=16)
    with pytest.raises(InputError, match="the same command makes the rest") as caught:
        ask(model, 1000)
    assert "connection" in str(caught.value)
    assert "\n" not in str(caught.value)
    # A pause spares the server: the burst that opened it, and one attempt after each pause.
    assert model.usage.attempts < 60


def test_a_mistake_in_every_request_is_noticed_early() -> None:
    policy = replace(QUICK, breaker_failures=10)
    with Serving(shares={"refused": 1.0}) as server, pytest.raises(InputError, match="refused all of the first 10"):
        ask(chat(server, retry=policy), 1000)
    assert server.app.seen.total() < 60


def test_redirects_are_not_followed_and_large_replies_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from introspect.chat.remote import openai
    from tests.chat.remote import serving

    def redirect(self: serving.Connection, fault: str, prompt: str) -> None:
        self.send(307, {}, {"Location": "http://127.0.0.1:9/elsewhere"})

    monkeypatch.setattr(serving.Connection, "misbehave", redirect)
    with Serving(only="500") as server, pytest.raises(InputError, match="redirects are not followed"):
        ask(chat(server, api_key=KEY))
    monkeypatch.setattr(openai, "_LARGEST_REPLY", 100)
    with Serving() as server:
        reply = ask(chat(server, retry=replace(QUICK, attempts=1)))["0"]
    assert isinstance(reply, ChatFailure)
    assert "more than 100 bytes" in reply.detail
