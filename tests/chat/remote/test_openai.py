"""Against a real server on loopback: what is sent, and what becomes of the answers."""

from __future__ import annotations

import copy
import json
import pickle
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from introspect.chat.protocol import ChatFailure, ChatRequest, ChatResponse, Message, Sampling
from introspect.chat.remote.endpoint import Endpoint, Secret
from introspect.chat.remote.openai import OpenAIChat, draw_seed
from introspect.chat.store import request_key
from introspect.chat.usage import Price, Usage
from introspect.core.errors import InputError
from tests.chat.remote.asking import QUICK, ask, chat, replying, request
from tests.chat.remote.serving import KEY, STYLES, Serving, answer_to, completion, question


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("style", STYLES)
def test_reasoning_is_read_wherever_it_stands(style: str, stream: bool) -> None:
    with Serving(style=style) as server:
        reply = ask(chat(server, stream=stream))["0"]
    assert isinstance(reply, ChatResponse)
    assert reply.reasoning == f"Looking up {question(0)}"
    assert reply.content == f"<answer>{answer_to(question(0))}</answer>"
    assert reply.finish_reason == "stop"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (10, 20)
    if style == "reasoning":  # the only one in which the server counts it apart
        assert reply.usage.reasoning_tokens == 15


def test_what_is_sent() -> None:
    options: dict[str, Any] = {
        "reasoning_effort": "high",
        "chat_template_kwargs": {"enable_thinking": True},
        "extra_body": {"min_p": 0.1},
        "api_key": KEY,
    }
    messages = (Message("system", "s"), Message("user", "ünï"))
    asked = ChatRequest("a", messages, Sampling(max_tokens=7, seed=5), sample=2)
    with Serving(key=KEY) as server:
        list(chat(server, **options).generate([asked, replace(asked, id="b", sample=0)]))
        first, second = sorted(server.app.bodies, key=lambda body: body["seed"], reverse=True)
        headers = server.app.headers[0]
    assert first == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "ünï"}],
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "seed": draw_seed(5, 2),
        "max_completion_tokens": 7,
        "reasoning_effort": "high",
        "chat_template_kwargs": {"enable_thinking": True},
        "min_p": 0.1,
    }
    assert second["seed"] == 5
    assert headers["authorization"] == f"Bearer {KEY}"


def test_only_what_the_server_takes_is_sent() -> None:
    with Serving() as server:
        model = chat(server, sampling_fields=["temperature"], limit_field="max_tokens", stream=True)
        list(model.generate([request(0, max_tokens=9, top_k=0), request(1, top_k=0)]))
        bodies = server.app.bodies
    assert {frozenset(body) for body in bodies} == {
        frozenset({"model", "messages", "temperature", "stream", "stream_options", "max_tokens"}),
        frozenset({"model", "messages", "temperature", "stream", "stream_options"}),
    }
    with Serving() as server:
        ask(chat(server, extra_body={"top_k": 3}))  # what the request says of the sampling wins
        assert server.app.bodies[0]["top_k"] == 20
        list(chat(server).generate([request(0, top_k=0)]))
        assert server.app.bodies[1]["top_k"] == -1


def test_seeds_of_draws_differ_and_do_not_collide_between_runs() -> None:
    assert draw_seed(42, 0) == 42
    seeds = {draw_seed(seed, sample, retry) for seed in range(20) for sample in range(20) for retry in range(3)}
    assert len(seeds) == 20 * 20 * 3
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert draw_seed(1, 1) == draw_seed(1, 1)


def test_unknown_words_for_the_end_are_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = completion("x", "reasoning")
    odd["choices"][0]["finish_reason"] = "odd"
    with Serving() as server, replying(odd):
        replies = ask(chat(server), 3)
    assert not any(isinstance(reply, ChatResponse) and reply.finished for reply in replies.values())
    assert caplog.text.count("words that are not known here") == 1


@pytest.mark.parametrize("wrong", ["sk-wrong-0123456789abcdef0123", "of-no-known-form"])
def test_a_wrong_key_stops_the_run_and_is_not_shown(wrong: str) -> None:
    with Serving(key=KEY) as server, pytest.raises(InputError, match="check the key") as caught:
        ask(chat(server, api_key=wrong), 3)
    assert "Incorrect API key provided: ***" in str(caught.value)
    assert wrong not in str(caught.value)


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Serving(key=KEY) as server:
        model = chat(server, api_key_env="MY_TEST_KEY")
        with pytest.raises(InputError, match="no key in the environment variable MY_TEST_KEY"):
            ask(model)
        monkeypatch.setenv("MY_TEST_KEY", f" {KEY}\n")
        assert isinstance(ask(model)["0"], ChatResponse)


def test_a_key_does_not_show_itself() -> None:
    model = OpenAIChat("m", base_url="http://h/v1", api_key=KEY, api_key_env="X")
    shown = [repr(model), str(vars(model)), str(model.identity), repr(Endpoint("u", Secret(KEY))), f"{Secret(KEY)}"]
    assert not any(KEY in text for text in shown)
    with pytest.raises(TypeError, match="never saved"):
        pickle.dumps(Secret(KEY))
    with pytest.raises(TypeError, match="never saved"):
        copy.deepcopy(model)
    with pytest.raises(TypeError):
        json.dumps(Secret(KEY))


def test_identity_is_the_model_and_what_shapes_its_answers() -> None:
    plain = OpenAIChat("m", base_url="http://a/v1")
    assert plain.identity == {"model": "m", "engine": "openai"}
    elsewhere = OpenAIChat("m", base_url="http://b/v1?x=1", concurrency=9, api_key="k", retry=QUICK, stream=True)
    assert elsewhere.identity == plain.identity
    changes: list[dict[str, Any]] = [
        {"reasoning_effort": "high"},
        {"context_length": 100},
        {"variant": "fp8"},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"extra_body": {"min_p": 0.1}},
        {"sampling_fields": ["temperature"]},
        {"sampling_fields": []},
        {"limit_field": "max_tokens"},
    ]
    keys = {request_key(OpenAIChat("m", base_url="http://a", **c).identity, request(0)) for c in [{}, *changes]}
    assert len(keys) == 9
    same = OpenAIChat("m", base_url="http://a", sampling_fields=["seed", "top_k", "top_p", "temperature"])
    assert same.identity == plain.identity


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": None}, "base_url is required"),
        ({"base_url": "localhost:8000"}, "expected an address such as"),
        ({"base_url": "http://me:hunter2@host/v1"}, "a user name or a password"),
        ({"base_url": "http://host/v1?api-version=1&api-key=hunter2"}, "holds the secret api-key"),
        ({"extra_body": {"a": {"api_key": "hunter2"}}}, r"extra_body\.a\.api_key looks like"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"max_failure_rate": 2}, "expected a share from 0 to 1"),
        ({"sampling_fields": ["top_j"]}, "top_j"),
        ({"api_key": "a\nb"}, "no header takes"),
    ],
)
def test_settings_that_can_not_be_right(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        OpenAIChat("m", **{"base_url": "http://h/v1", **options})
    assert "hunter2" not in str(caught.value)


def test_missing_counts_are_said_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    with Serving() as server, replying({**completion("x", "reasoning"), "usage": None}):
        model = chat(server)
        replies = ask(model, 3)
        assert {reply.usage for reply in replies.values() if isinstance(reply, ChatResponse)} == {Usage(0, 0, 0)}
        assert caplog.text.count("sends no usage") == 1
        assert model.usage.metrics()["responses_without_usage"] == 3
        with pytest.raises(InputError, match="tokens can not be counted"):
            ask(chat(server, require_usage=True))


@pytest.mark.parametrize(("part", "reason"), [("reasoning", "no_reasoning"), ("content", "empty")])
def test_reasoning_and_content_may_be_required(part: str, reason: str) -> None:
    partial = completion("x", "reasoning")
    del partial["choices"][0]["message"][part]
    with Serving() as server, replying(partial):
        reply = ask(chat(server, **{f"require_{part}": False}))["0"]
        assert isinstance(reply, ChatResponse)
        assert reply.finished
        assert server.app.seen.total() == 1
        reply = ask(chat(server, **{f"require_{part}": True}, retry=replace(QUICK, attempts=2)))["0"]
    assert isinstance(reply, ChatFailure)
    assert (reply.reason, reply.attempts) == (reason, 2)


def test_concurrency_limits_requests_in_flight_and_connections_are_reused() -> None:
    with Serving(latency_s=0.001) as server:
        assert all(isinstance(reply, ChatResponse) for reply in ask(chat(server, concurrency=8), 400).values())
        assert server.app.most_in_flight <= 8
        assert server.app.connections <= 8


def test_leaving_early_cancels_what_is_under_way() -> None:
    with Serving(only="stall") as server:
        stream = chat(server).generate(request(number) for number in range(8))

        def leave() -> None:
            while server.app.open_connections < 8:
                time.sleep(0.01)
            stream.close()

        threading.Thread(target=leave, daemon=True).start()
        assert list(stream) == []
        deadline = time.monotonic() + 5
        while server.app.open_connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.app.open_connections == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "stream"]


def test_usage_includes_the_price() -> None:
    with Serving(style="reasoning", shares={"empty": 1.0}) as server:
        model = chat(server, price=Price(prompt=1.0, completion=10.0))
        ask(model, 2)
    numbers = model.usage.metrics()
    assert (numbers["prompt_tokens"], numbers["completion_tokens"], numbers["wasted_tokens"]) == (40, 80, 40)
    assert numbers["cost"] == pytest.approx((40 * 1.0 + 80 * 10.0) / 1e6)
    assert model.usage.note().endswith("0.00 USD, 2 faulty attempts")
