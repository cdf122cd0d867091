from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.benchmarks.hopworld import Hopworld
from introspect.chat.local.transformers import Drawn
from introspect.chat.protocol import ChatResponse
from introspect.chat.usage import Usage
from introspect.core.errors import InputError
from introspect.tuning.grpo.advantages import GRPO
from introspect.tuning.grpo.rollout_collection import STATISTICS, Plan, collect_rollouts

SETTINGS = GRPO(group_size=2, scale_rewards=False)
PLAN = Plan(count=10, questions=3, group_size=4, passes=1, batch_size=3, accumulate=2, seed=1)


@pytest.fixture(scope="module")
def examples() -> list[Any]:
    return Hopworld(seed=1, sizes={"train": 3, "validation": 1, "test": 1}).load("train")


class Scripted:
    """Answers the first sample of a question right and the second not at all, in the reverse of the order asked."""

    def __init__(self) -> None:
        self.seeds: set[int] = set()

    def draw(self, requests: Any) -> Any:
        for request in reversed(list(requests)):
            self.seeds.add(request.sampling.seed)
            right = request.sample == 0
            content = f"<answer>{request.example.answer}</answer>" if right else ""
            tokens = (int(request.example.id.rpartition("-")[2] or 0) % 5 + 5,) * (2 + request.sample)
            usage = Usage(4, len(tokens), 0)
            yield Drawn(
                ChatResponse(request.id, "", content, "stop" if right else "length", usage), (1, 2, 3, 4), tokens
            )


def test_rollouts_are_joined_scored_and_compared(examples: list[Any]) -> None:
    model = Scripted()
    experience = collect_rollouts(model, examples, SETTINGS, 0)
    assert [item.prompt_length for item in experience.sequences] == [4] * 6
    assert [len(item.input_ids) for item in experience.sequences] == [6, 7] * 3
    assert experience.advantages.tolist() == [0.5, -0.5] * 3
    assert experience.counted.tolist() == [2, 3] * 3
    assert dict(zip(STATISTICS, experience.statistics.tolist(), strict=True)) == {
        "reward": 0.5,
        "reward_std": 0.5,
        "completion_tokens": 2.5,
        "degeneration_rate": 0.5,
        "informative_groups": 1.0,
    }


def test_a_reward_may_be_a_whole_number(examples: list[Any]) -> None:
    settings = replace(SETTINGS, reward=lambda rollout: int(rollout.finished))
    assert collect_rollouts(Scripted(), examples, settings, 0).advantages.tolist() == [0.5, -0.5] * 3


def test_truncated_rollouts_can_be_left_out_but_are_compared_with(examples: list[Any]) -> None:
    experience = collect_rollouts(Scripted(), examples, replace(SETTINGS, mask_truncated=True), 0)
    assert experience.counted.tolist() == [2, 0] * 3
    assert experience.advantages.tolist() == [0.5, -0.5] * 3


def test_equal_rewards_are_counted(examples: list[Any]) -> None:
    experience = collect_rollouts(Scripted(), examples, replace(SETTINGS, reward=lambda rollout: 0.1), 0)
    assert experience.advantages.tolist() == [0.0] * 6
    assert experience.statistics[STATISTICS.index("informative_groups")] == 0


def test_each_round_draws_anew(examples: list[Any]) -> None:
    model = Scripted()
    for number in (0, 1, 1):
        collect_rollouts(model, examples, SETTINGS, number)
    assert len(model.seeds) == 2


def test_a_plan_by_hand() -> None:
    assert (PLAN.rollouts, PLAN.step, PLAN.updates, PLAN.batches, PLAN.rounds) == (12, 6, 2, 4, 4)
    twice = replace(PLAN, passes=2, replicas=2)
    assert (twice.rollouts, twice.step, twice.updates, twice.batches, twice.rounds) == (12, 6, 4, 8, 2)


@given(count=st.integers(1, 40), questions=st.integers(1, 5), replicas=st.integers(1, 3), epoch=st.integers(0, 3))
def test_every_question_comes_once_or_a_few_twice_and_never_in_one_round(
    count: int, questions: int, replicas: int, epoch: int
) -> None:
    plan = replace(PLAN, count=count, questions=questions, replicas=replicas)
    if count < questions * replicas:
        with pytest.raises(InputError, match=rf"there are {count} training questions, but a round takes {questions} "):
            replace(plan, batch_size=1, accumulate=1).check()
        return
    ranks = [replace(plan, rank=rank).order(epoch) for rank in range(replicas)]
    assert {len(rounds) for rounds in ranks} == {plan.rounds}
    assert {len(part) for rounds in ranks for part in rounds} == {questions}
    for parts in zip(*ranks, strict=True):
        together = [question for part in parts for question in part]
        assert len(set(together)) == len(together)
    times = Counter(question for rounds in ranks for part in rounds for question in part)
    assert set(times) == set(range(count))
    assert set(times.values()) <= {1, 2}
    assert sum(times.values()) - count == -count % (questions * replicas)


def test_epochs_differ_unless_they_are_not_shuffled() -> None:
    assert PLAN.order(0) == PLAN.order(0) != PLAN.order(1)
    assert replace(PLAN, shuffle=False).order(0) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 0, 1]]


@given(st.lists(st.integers(1, 99), min_size=12, max_size=12), st.integers(1, 3))
def test_every_rollout_is_trained_on_once_a_pass(lengths: list[int], passes: int) -> None:
    plan = replace(PLAN, passes=passes)
    steps = plan.steps(torch.tensor(lengths), 7)
    assert [[len(batch) for batch in step] for step in steps] == [[3, 3]] * plan.updates
    flat = [index for step in steps for batch in step for index in batch]
    assert Counter(flat) == Counter(list(range(12)) * passes)
    for step in steps:
        inside = [lengths[index] for batch in step for index in batch]
        assert inside == sorted(inside)


def test_rounds_are_cut_in_different_ways() -> None:
    lengths = torch.ones(12, dtype=torch.int64)
    plan = replace(PLAN, passes=2)
    assert plan.steps(lengths, 0) == plan.steps(lengths, 0) != plan.steps(lengths, 1)
    first, second, third, fourth = plan.steps(lengths, 0)
    assert [first, second] != [third, fourth]


def test_a_round_must_be_whole_steps() -> None:
    with pytest.raises(
        InputError, match=r"3 questions x 4 rollouts is no whole number of optimizer steps of batch_size"
    ):
        replace(PLAN, batch_size=5).check()
    PLAN.check()
