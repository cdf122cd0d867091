from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.reasoning.models.lookahead import look_up


def guess(tokens: list[int], count: int) -> list[int]:
    # What stands behind a row must not matter.
    history = torch.tensor([[*tokens, 1, 1, 1]])
    return look_up(history, torch.tensor([len(tokens)]), count)[0].tolist()


def naive(tokens: list[int], count: int) -> list[int]:
    """The definition, place by place."""
    best = (0, -1)
    for place in range(len(tokens) - 1):
        alike = 0
        while alike < 3 and alike <= place and tokens[place - alike] == tokens[-1 - alike]:
            alike += 1
        best = max(best, (alike, place))
    alike, place = best
    if alike == 0:
        return [-1] * count
    past = tokens[place + 1 :]
    return [past[step % len(past)] for step in range(count)]


def test_what_followed_the_same_words_is_guessed() -> None:
    assert guess([5, 6, 7, 8, 9, 5, 6], 3) == [7, 8, 9]


def test_a_longer_match_wins_over_a_later_one() -> None:
    assert guess([4, 5, 6, 7, 9, 6, 8, 4, 5, 6], 1) == [7]


def test_of_equal_matches_the_latest_wins() -> None:
    assert guess([6, 7, 6, 8, 6], 1) == [8]


def test_a_loop_goes_on_for_as_long_as_it_is_asked_for() -> None:
    assert guess([9, 5, 6, 5, 6], 5) == [5, 6, 5, 6, 5]


def test_nothing_is_guessed_after_a_token_that_is_new() -> None:
    assert guess([5, 6, 7], 2) == [-1, -1]
    assert guess([5], 2) == [-1, -1]


def test_a_history_may_be_shorter_than_what_is_compared() -> None:
    assert look_up(torch.tensor([[5]]), torch.tensor([1]), 2).tolist() == [[-1, -1]]


def test_rows_of_different_length_are_looked_up_by_themselves() -> None:
    history = torch.tensor([[5, 6, 5, 0, 0], [7, 8, 9, 7, 8]])
    assert look_up(history, torch.tensor([3, 5]), 2).tolist() == [[6, 5], [9, 7]]


@given(st.lists(st.integers(2, 5), min_size=1, max_size=30), st.integers(1, 6))
def test_it_is_the_definition(tokens: list[int], count: int) -> None:
    assert guess(tokens, count) == naive(tokens, count)
