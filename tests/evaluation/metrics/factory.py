"""Rollouts for the tests, written down by what matters in each of them."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from introspect.chat.protocol import tag_answer
from introspect.evaluation.rollouts import Rollout

quick = settings(max_examples=40)


def rollout(example_id: str = "q", rollout_id: int = 0, *, predicted: str | None = None, **fields: Any) -> Rollout:
    """A finished rollout about Paris; `predicted` is put between answer tags."""
    values: dict[str, Any] = {
        "benchmark": "hopworld",
        "question": f"Question {example_id}?",
        "answer": "Paris",
        "aliases": (),
        "hops": 2,
        "tier": "easy",
        "reasoning": "Let us see.",
        "content": "" if predicted is None else tag_answer(predicted),
        "finish_reason": "stop",
        "prompt_tokens": 100,
        "reasoning_tokens": 8,
        "completion_tokens": 10,
    }
    return Rollout(example_id=example_id, rollout_id=rollout_id, **(values | fields))


@st.composite
def runs(draw: st.DrawFn, max_questions: int = 6, max_rollouts: int = 4) -> list[Rollout]:
    """A whole run, shuffled: some questions, each with its own number of rollouts, right, wrong, cut off or mute."""
    rollouts = []
    for question in range(draw(st.integers(1, max_questions))):
        for number in range(draw(st.integers(1, max_rollouts))):
            reasoning_tokens = draw(st.integers(0, 50))
            rollouts.append(
                rollout(
                    f"q{question}",
                    number,
                    predicted=draw(st.sampled_from([None, "", "Paris", "paris!", "Paris, France", "Rome", "the"])),
                    aliases=draw(st.sampled_from([(), ("City of Light",), ("The",)])),
                    reasoning=draw(st.sampled_from(["", "It is Paris.", "Rome, or the City of Light?", "Parisian"])),
                    finish_reason=draw(st.sampled_from(["stop", "length"])),
                    reasoning_tokens=reasoning_tokens,
                    completion_tokens=reasoning_tokens + draw(st.integers(1, 9)),
                )
            )
    return draw(st.permutations(rollouts))
