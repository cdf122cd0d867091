"""Usage of chat models: tokens and money, attempts and failures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from introspect.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one response.

    Attributes:
        prompt_tokens: of the prompt.
        completion_tokens: of reasoning, tags, answer and end of turn.
        reasoning_tokens: the part of `completion_tokens` that is reasoning.
    """

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int

    @property
    def answer_tokens(self) -> int:
        """Completion tokens that are not reasoning."""
        return self.completion_tokens - self.reasoning_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The price of a server. It bills reasoning as completion.

    Attributes:
        prompt: per million tokens of prompts; None if unknown.
        completion: per million tokens of completions; None if unknown.
        currency: of both.

    Raises:
        InputError: a price is negative.
    """

    prompt: float | None = None
    completion: float | None = None
    currency: str = "USD"

    def __post_init__(self) -> None:
        if min(self.prompt or 0, self.completion or 0) < 0:
            raise InputError(f"price: expected 0 or more per million tokens, got {self.prompt} and {self.completion}")

    def of(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the price of these tokens; None if it is unknown."""
        if self.prompt is None or self.completion is None:
            return None
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class UsageCounter:
    """Counts the usage of one model in one process, without responses from a store, which cost nothing.

    Args:
        price: of the tokens; None if unknown.

    Attributes:
        answered: requests with a response.
        failed: requests without one; `failures` counts them by reason.
        attempts: requests sent, repeated ones included; `faults` counts those that brought no response, by reason.
        prompt_tokens: as the server counts and bills them; so are the other tokens.
        completion_tokens: reasoning included.
        reasoning_tokens: part of `completion_tokens`.
        wasted_tokens: completion tokens of attempts whose response was discarded.
        uncounted: responses without token counts.
        estimated: responses whose reasoning tokens are estimated from the number of characters.
    """

    def __init__(self, price: Price | None = None) -> None:
        self.price = price or Price()
        self.answered = self.failed = self.attempts = 0
        self.prompt_tokens = self.completion_tokens = self.reasoning_tokens = self.wasted_tokens = 0
        self.uncounted = self.estimated = 0
        self.faults: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    def attempt(self, usage: Usage | None = None, *, fault: str | None = None) -> None:
        """Count an attempt with the usage that the server reports and the reason why it brought no response, if any."""
        self.attempts += 1
        if usage is not None:
            self.prompt_tokens += usage.prompt_tokens
            self.completion_tokens += usage.completion_tokens
            self.reasoning_tokens += usage.reasoning_tokens
        if fault is not None:
            self.faults[fault] += 1
            self.wasted_tokens += usage.completion_tokens if usage is not None else 0

    def close(self, failure: str | None = None) -> None:
        """Count a request as answered, or as failed for this reason."""
        if failure is None:
            self.answered += 1
        else:
            self.failed += 1
            self.failures[failure] += 1

    @property
    def cost(self) -> float | None:
        """Money spent, in the currency of the price; None where no price is set."""
        return self.price.of(self.prompt_tokens, self.completion_tokens)

    def metrics(self) -> dict[str, float]:
        """Return every count as a number to log; `fault/<reason>` counts attempts, `failure/<reason>` requests."""
        numbers: dict[str, float] = {
            "answered": self.answered,
            "failed": self.failed,
            "attempts": self.attempts,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "wasted_tokens": self.wasted_tokens,
            "responses_without_usage": self.uncounted,
            "responses_with_estimated_reasoning": self.estimated,
        }
        numbers |= {f"fault/{reason}": count for reason, count in sorted(self.faults.items())}
        numbers |= {f"failure/{reason}": count for reason, count in sorted(self.failures.items())}
        if self.cost is not None:
            numbers["cost"] = self.cost
        return {name: float(number) for name, number in numbers.items()}

    def note(self) -> str:
        """Format the counts for a progress bar: `1.2M in, 3.4M out (2.1M reasoning), 2.22 USD, 3 failed`."""
        parts = [
            f"{short(self.prompt_tokens)} in",
            f"{short(self.completion_tokens)} out ({short(self.reasoning_tokens)} reasoning)",
        ]
        if self.cost is not None:
            parts.append(f"{self.cost:.2f} {self.price.currency}")
        if faults := self.faults.total():
            parts.append(f"{short(faults)} faulty attempts")
        if self.failed:
            parts.append(f"{short(self.failed)} failed")
        return ", ".join(parts)


def short(number: int) -> str:
    """Format a count as `950`, `12.3k`, `4.56M` or `7.89G`."""
    for unit, size, digits in (("G", 10**9, 2), ("M", 10**6, 2), ("k", 10**3, 1)):
        if number >= size:
            return f"{number / size:.{digits}f}{unit}"
    return str(number)
