"""A secret is never shown, and what is no secret always is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.core.redaction import REDACTED, is_secret_key, redact


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "apiKey",
        "API_KEY",
        "key",
        "hf_token",
        "token",
        "client_secret",
        "Authorization",
        "password",
        "api_keys",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_key(name)


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens",
        "tokens_seen",
        "tokenizer",
        "token_usage",
        "monitor",
        "pad_token",
        "eos_token",
        "keys",
        "monkey",
        "",
    ],
)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_key(name)


def test_redacts_by_name_at_any_depth() -> None:
    config = {"teacher": {"api_key": "abc", "url": "http://x"}, "list": [{"password": "p"}], "secrets": {"a": "b"}}
    assert redact(config) == {
        "teacher": {"api_key": REDACTED, "url": "http://x"},
        "list": [{"password": REDACTED}],
        "secrets": {"a": REDACTED},
    }
    assert config["teacher"] == {"api_key": "abc", "url": "http://x"}


def test_redacts_values_that_look_like_keys_under_any_name() -> None:
    found = {
        "a": "sk-proj-abc123def456ghi789",
        "b": "hf_abcdefghijklmnopqrst",
        "c": "Authorization: Bearer abc.def-123456",
        "d": "https://me:pass@host/path",
    }
    assert redact(found) == {
        "a": REDACTED,
        "b": REDACTED,
        "c": f"Authorization: {REDACTED}",
        "d": f"https://{REDACTED}@host/path",
    }


@pytest.mark.parametrize(
    "value",
    [
        "hf-internal-testing/tiny-random-model-with-a-long-name",
        "Qwen/Qwen3-0.6B",
        "1908d6afbbead072334abe2965f91bd2709910ab",
        "introspect.callbacks.token_usage.TokenUsage",
        "a basic sentence about baseball",
    ],
)
def test_ordinary_values_stay(value: str) -> None:
    assert redact({"model": value}) == {"model": value}


def test_the_place_of_a_secret_stays() -> None:
    assert redact({"api_key": "${oc.env:KEY}"}) == {"api_key": "${oc.env:KEY}"}
    assert redact({"api_key": None, "token": 3, "secret": True}) == {"api_key": None, "token": 3, "secret": True}


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("api_key"), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(nested)
def test_redacting_twice_changes_nothing_more(value: Any) -> None:
    once = redact(value)
    assert redact(once) == once


@given(st.text(min_size=1).filter(lambda text: not text.startswith("${")), nested)
def test_no_secret_is_left_anywhere(secret: str, other: Any) -> None:
    clean = redact({"outer": [{"api_key": secret, "other": other}]})
    assert clean["outer"][0]["api_key"] == REDACTED
