from __future__ import annotations

import pytest

from introspect.chat.usage import Price, Usage, UsageCounter, short
from introspect.core.errors import InputError


def test_tokens_money_and_failures() -> None:
    counter = UsageCounter(Price(prompt=2.0, completion=8.0, currency="EUR"))
    counter.attempt(Usage(1_000_000, 500_000, 400_000))
    counter.close()
    counter.attempt(Usage(500_000, 500_000, 0), fault="empty")
    counter.attempt(fault="timeout")
    counter.close("timeout")
    assert counter.cost == 3.0 + 8.0
    assert counter.metrics() == {
        "answered": 1.0,
        "failed": 1.0,
        "attempts": 3.0,
        "prompt_tokens": 1_500_000.0,
        "completion_tokens": 1_000_000.0,
        "reasoning_tokens": 400_000.0,
        "wasted_tokens": 500_000.0,
        "responses_without_usage": 0.0,
        "responses_with_estimated_reasoning": 0.0,
        "fault/empty": 1.0,
        "fault/timeout": 1.0,
        "failure/timeout": 1.0,
        "cost": 11.0,
    }
    assert counter.note() == "1.50M in, 1.00M out (400.0k reasoning), 11.00 EUR, 2 faulty attempts, 1 failed"


def test_an_unknown_price_is_no_price() -> None:
    for price in (None, Price(), Price(prompt=1.0)):
        counter = UsageCounter(price)
        counter.attempt(Usage(10, 20, 5))
        assert counter.cost is None
        assert "cost" not in counter.metrics()
        assert counter.note() == "10 in, 20 out (5 reasoning)"


def test_a_price_is_not_negative() -> None:
    with pytest.raises(InputError, match="expected 0 or more"):
        Price(prompt=1.0, completion=-0.1)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (12_345, "12.3k"), (4_560_000, "4.56M"), (7_890_000_000, "7.89G")]
)
def test_short_numbers(number: int, text: str) -> None:
    assert short(number) == text
