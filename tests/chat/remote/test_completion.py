from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from introspect.chat.remote.completion import Faulty, Reply, fault_of_status, read_events, read_reply
from introspect.chat.remote.retry import Fault
from introspect.chat.usage import Usage

COUNTS = {"prompt_tokens": 5, "completion_tokens": 10}


def body(message: Any, finish_reason: Any = "stop", **more: Any) -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish_reason}], **more}).encode()


def parse(text: bytes, **options: bool) -> Reply:
    reply = read_reply(text, **options)
    assert isinstance(reply, Reply)
    return reply


def fault(text: bytes, **options: bool) -> Fault:
    outcome = read_reply(text, **options)
    assert isinstance(outcome, Faulty)
    return outcome.fault


@pytest.mark.parametrize(
    ("message", "reasoning", "content"),
    [
        ({"content": "c", "reasoning": "r"}, "r", "c"),
        ({"content": "c", "reasoning_content": "r"}, "r", "c"),
        ({"content": "c", "reasoning": "r", "reasoning_content": "r"}, "r", "c"),
        ({"content": "c", "reasoning": None, "reasoning_content": "r"}, "r", "c"),
        ({"content": "<think>\nr\n</think>\n\nc"}, "r", "c"),
        ({"content": "r</think>c"}, "r", "c"),  # the template had opened the block
        ({"content": "<think>s</think>c", "reasoning": "r"}, "r\n\ns", "c"),
        ({"content": "c"}, "", "c"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}, "", "ab"),
    ],
)
def test_reasoning_and_content(message: dict[str, Any], reasoning: str, content: str) -> None:
    reply = parse(body(message, usage=COUNTS))
    assert (reply.reasoning, reply.content, reply.finish_reason) == (reasoning, content, "stop")


@pytest.mark.parametrize(
    ("message", "finish_reason", "reason"),
    [
        ({"content": ""}, "stop", "empty"),
        ({"content": None, "reasoning": "r"}, "stop", "empty"),
        ({"content": "  \n", "reasoning": "r"}, "stop", "empty"),
        ({"content": "<think>r</think>"}, "stop", "empty"),
        ({"content": "<think>never closed"}, "stop", "empty"),
        ({"content": None}, "tool_calls", "empty"),
        ({"content": None}, "length", "empty"),
        ({"content": None, "refusal": "No."}, "stop", "content_filter"),
        ({"content": "half of it"}, "content_filter", "content_filter"),
        ({"content": "c"}, None, "malformed"),
        ({"content": "c"}, 3, "malformed"),
        ({"content": 3}, "stop", "malformed"),
        ({"content": ["c"]}, "stop", "malformed"),
        ({"content": "c", "reasoning": {"text": "r"}}, "stop", "malformed"),
        ("c", "stop", "malformed"),
        (None, "stop", "malformed"),
    ],
)
def test_faults(message: Any, finish_reason: Any, reason: str) -> None:
    found = fault(body(message, finish_reason))
    assert found.reason == reason
    assert found.detail


@pytest.mark.parametrize("word", ["abort", "error", "cancelled", "insufficient_system_resource"])
def test_a_server_that_breaks_off_is_no_limit_of_the_model(word: str) -> None:
    outcome = read_reply(body({"content": "half of", "reasoning": "r"}, word, usage=COUNTS))
    assert isinstance(outcome, Faulty)
    assert (outcome.fault.reason, outcome.fault.status, outcome.usage) == ("server_error", 502, Usage(5, 10, 1))
    assert outcome.fault.detail == f"502: the server broke off, finish_reason {word}"


def test_an_error_beside_half_an_answer_is_an_error() -> None:
    choice = {"message": {"content": "half"}, "finish_reason": "stop", "error": {"code": 429, "message": "slow down"}}
    event = f"data: {json.dumps({'choices': [{'delta': {'content': 'half'}, 'error': {'code': 429}}]})}".encode()
    for found in (fault(json.dumps({"choices": [choice]}).encode()), fault(event, streamed=True)):
        assert (found.reason, found.status) == ("rate_limited", 429)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("eos_token", "stop"), ("end_turn", "stop"), ("max_tokens", "length"), ("model_length", "length"), ("odd", "odd")],
)
def test_other_words_for_the_end_of_a_turn(word: str, meant: str) -> None:
    reply = parse(body({"content": "c"}, word))
    assert reply.finish_reason == meant


def test_a_student_may_end_its_turn_without_an_answer() -> None:
    for message in ({"content": None, "reasoning": "r"}, {"content": "<think>r</think>"}):
        reply = parse(body(message), needs_content=False)
        assert (reply.reasoning, reply.content) == ("r", "")
    assert isinstance(read_reply(body({"content": ""}), needs_content=False), Faulty)


def test_what_no_file_could_hold_is_mended() -> None:
    # Half of a character, as servers send that cut their text at a token.
    reply = parse(
        b'{"choices": [{"message": {"content": "x \\ud83d", "reasoning": "\\ude00"}, "finish_reason": "stop"}]}'
    )
    assert (reply.content, reply.reasoning) == ("x \ufffd", "\ufffd")
    parts = [b'{"content": "\\ud83d"}', b'{"content": "\\ude00"}']
    halves = [b'data: {"choices": [{"delta": %s, "finish_reason": "stop"}]}' % part for part in parts]
    whole = parse(b"\n".join(halves), streamed=True)
    assert whole.content == "\U0001f600"
    many = parse(body({"content": "c"}, usage={"prompt_tokens": 10**30, "completion_tokens": 1}))
    assert many.usage is None


def test_a_bottomless_reply_is_malformed() -> None:
    deep = b"[" * 200_000
    assert fault(deep).reason == "malformed"
    with pytest.raises(ValueError, match="not an event"):
        read_events([b"data: " + deep])
    assert fault_of_status(400, deep).reason == "refused"


def test_streamed_answers_that_nobody_asked_for_are_left_out() -> None:
    events: list[Any] = [
        {"choices": [{"index": n, "delta": {"content": f"c{n}"}, "finish_reason": "stop"}]} for n in (0, 1)
    ]
    reply = parse(b"\n".join(lines(events)), streamed=True)
    assert reply.content == "c0"


def test_a_turn_cut_off_while_it_thinks_is_an_answer_at_the_limit() -> None:
    for message in ({"content": None, "reasoning": "r"}, {"content": "<think>r"}):
        reply = parse(body(message, "length", usage=COUNTS), needs_reasoning=True)
        assert (reply.reasoning, reply.content, reply.finish_reason) == ("r", "", "length")
        assert reply.usage == Usage(5, 10, 10)


def test_missing_reasoning_is_a_fault_only_where_it_is_needed() -> None:
    assert isinstance(read_reply(body({"content": "c"})), Reply)
    outcome = read_reply(body({"content": "c"}, usage=COUNTS), needs_reasoning=True)
    assert isinstance(outcome, Faulty)
    assert outcome.fault.reason == "no_reasoning"
    assert outcome.usage == Usage(5, 10, 0)  # it was billed


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (b"", "not JSON: (nothing)"),
        (b'{"choices": [{"mess', 'not JSON: {"choices": [{"mess'),
        (b"\xff\xfe", "not JSON"),
        (b"<html>Bad gateway</html>", "not JSON: <html>Bad gateway</html>"),
        (b"[]", "not a chat completion (TypeError"),
        (b"{}", "not a chat completion (KeyError: 'choices')"),
        (b'{"choices": []}', "not a chat completion (IndexError"),
        (b"null", "not a chat completion (TypeError"),
    ],
)
def test_what_is_no_completion(text: bytes, detail: str) -> None:
    found = fault(text)
    assert found.reason == "malformed"
    assert found.detail.startswith(detail)


def test_errors_of_gateways_inside_a_200() -> None:
    rate, down = fault(b'{"error": {"code": 429, "message": "slow down"}}'), fault(b'{"error": "upstream gone"}')
    assert (rate.reason, rate.status) == ("rate_limited", 429)
    assert (down.reason, down.status) == ("server_error", 502)


@pytest.mark.parametrize(
    ("usage", "expected", "has_split"),
    [
        ({**COUNTS, "completion_tokens_details": {"reasoning_tokens": 4}}, Usage(5, 10, 4), True),
        ({**COUNTS, "reasoning_tokens": 4}, Usage(5, 10, 4), True),
        (COUNTS, Usage(5, 10, 8), False),  # eight characters of ten are reasoning
        ({**COUNTS, "completion_tokens_details": None}, Usage(5, 10, 8), False),
        ({**COUNTS, "completion_tokens_details": {"reasoning_tokens": 0}}, Usage(5, 10, 8), False),
        ({**COUNTS, "completion_tokens_details": {"reasoning_tokens": 11}}, Usage(5, 10, 8), False),
        ({"prompt_tokens": 5}, None, False),
        ({"prompt_tokens": 5, "completion_tokens": -1}, None, False),
        ({"prompt_tokens": True, "completion_tokens": 1}, None, False),
        ({"prompt_tokens": "5", "completion_tokens": 1}, None, False),
        (None, None, False),
        ([], None, False),
    ],
)
def test_tokens_are_the_servers_or_none(usage: Any, expected: Usage | None, has_split: bool) -> None:
    reply = parse(body({"content": "cc", "reasoning": "rrrrrrrr"}, usage=usage))
    assert (reply.usage, reply.has_split) == (expected, has_split)


def test_without_reasoning_nothing_is_estimated() -> None:
    reply = parse(body({"content": "c"}, usage=COUNTS))
    assert (reply.usage, reply.has_split) == (Usage(5, 10, 0), True)


@pytest.mark.parametrize(
    ("status", "text", "reason", "stops"),
    [
        (429, b'{"error": {"message": "slow", "code": "rate_limit"}}', "rate_limited", False),
        (429, b'{"error": {"message": "no money", "code": "insufficient_quota"}}', "rate_limited", True),
        (500, b"oops", "server_error", False),
        (503, b"", "server_error", False),
        (408, b"", "server_error", False),
        (400, b'{"error": {"message": "This model\'s maximum context length is 10 tokens."}}', "too_long", False),
        (400, b'{"error": {"code": "context_length_exceeded", "message": "x"}}', "too_long", False),
        (400, b'{"message": "The prompt is too long: 9 tokens", "type": "BadRequestError"}', "too_long", False),
        (400, b'{"error": {"code": "content_filter", "message": "x"}}', "content_filter", False),
        (403, b'{"error": {"message": "flagged by moderation"}}', "content_filter", False),
        (400, b'{"error": {"message": "unknown field"}}', "refused", False),
        (422, b'{"detail": [{"msg": "bad"}]}', "refused", False),
        (401, b"", "refused", True),
        (403, b"", "refused", True),
        (404, b'{"error": {"message": "no such model"}}', "refused", True),
        (302, b"", "refused", True),
    ],
)
def test_statuses(status: int, text: bytes, reason: str, stops: bool) -> None:
    found = fault_of_status(status, text, 3.0)
    assert (found.reason, found.stops, found.status) == (reason, stops, status)
    assert found.detail.startswith(f"{status}: ")


EVENTS = [
    {"choices": [{"delta": {"role": "assistant", "reasoning": "r1 "}}]},
    {"choices": [{"delta": {"reasoning": "r2", "content": None}}]},
    {"choices": [{"delta": {"content": "c1 "}}]},
    {"choices": [{"delta": {"content": "c2"}, "finish_reason": "stop"}]},
    {"choices": [], "usage": COUNTS},
]


def lines(events: list[Any]) -> list[bytes]:
    return [b"", *(f"data: {json.dumps(event)}".encode() for event in events), b": comment"]


def test_streamed_events_make_the_same_completion() -> None:
    reply = parse(b"\n".join([*lines(EVENTS), b"data: [DONE]"]), streamed=True)
    assert (reply.reasoning, reply.content, reply.finish_reason) == ("r1 r2", "c1 c2", "stop")
    assert reply.usage == Usage(5, 10, 5)


def test_events_of_another_form_are_a_value_error() -> None:
    choices: list[Any] = [3, [3], [{"delta": 3}], [{"delta": {"content": 3}}]]
    for event in (3, *({"choices": choice} for choice in choices)):
        with pytest.raises(ValueError, match="not an event"):
            read_events([f"data: {json.dumps(event)}".encode(), b"data: [DONE]"])


def test_streams_that_break_off() -> None:
    with pytest.raises(ValueError, match="broke off"):
        read_events(lines(EVENTS[:3]))
    with pytest.raises(ValueError, match="Expecting"):
        read_events([b"data: {"])
    died = b'data: {"error": {"message": "died", "code": 500}}'
    assert fault(b"\n".join([*lines(EVENTS[:2]), died]), streamed=True).reason == "server_error"


NAMES = "choices message content reasoning finish_reason usage error delta text type".split()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=60)
@given(JSON)
def test_no_reply_whatever_it_is_raises(value: Any) -> None:
    whole = {"choices": [{"message": value, "finish_reason": "stop"}], "usage": value}
    for data in (value, {"choices": [value]}, whole):
        assert isinstance(read_reply(json.dumps(data).encode(), needs_reasoning=True), Reply | Faulty)
        assert isinstance(fault_of_status(400, json.dumps(data).encode()).detail, str)
