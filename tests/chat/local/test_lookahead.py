from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.chat.local import lookahead
from introspect.chat.local.lookahead import WINDOW, Phrases

Text = tuple[list[int], int]  # tokens, and the prompt that they belong to


def window(tokens: list[int]) -> list[int]:
    return ([-1] * WINDOW + tokens)[-WINDOW:]


def learn(phrases: Phrases, *texts: Text) -> None:
    """Answers, token by token."""
    for tokens, prompt in texts:
        for place in range(1, len(tokens)):
            windows = torch.tensor([window(tokens[:place])])
            phrases.learn(windows, torch.tensor([tokens[place]]), torch.tensor([prompt]))


def guess(phrases: Phrases, tokens: list[int], prompt: int, count: int) -> list[int]:
    return phrases.guess(torch.tensor([window(tokens)]), torch.tensor([prompt]), count)[0].tolist()


def test_what_followed_the_same_words_in_another_answer_is_guessed() -> None:
    phrases = Phrases()
    learn(phrases, ([5, 6, 7, 8, 9], 1))
    assert guess(phrases, [3, 5, 6], 2, 3) == [7, 8, 9]


def test_what_stands_in_a_prompt_is_guessed_for_its_answers_only() -> None:
    phrases = Phrases()
    phrases.read(torch.tensor([4, 5, 6, 7, 8, 9]), 1)
    assert guess(phrases, [4, 5, 6], 1, 2) == [7, 8]
    assert guess(phrases, [4, 5, 6], 2, 2) == [-1, -1]


def test_an_answers_own_prompt_wins_over_other_answers() -> None:
    phrases = Phrases()
    phrases.read(torch.tensor([1, 1, 5, 6, 7, 8]), 1)
    learn(phrases, ([3, 5, 6, 7, 9], 2))
    assert guess(phrases, [2, 5, 6, 7], 1, 1) == [8]
    assert guess(phrases, [2, 5, 6, 7], 3, 1) == [9]


def test_of_equal_matches_the_latest_wins() -> None:
    phrases = Phrases()
    learn(phrases, ([5, 6, 7], 1), ([5, 6, 8], 1))
    assert guess(phrases, [5, 6], 2, 1) == [8]


def test_a_loop_goes_on_for_as_long_as_it_is_asked_for() -> None:
    phrases = Phrases()
    learn(phrases, ([9, 5, 6, 5, 6, 5, 6], 1))
    assert guess(phrases, [9, 5, 6, 5, 6, 5, 6], 1, 5) == [5, 6, 5, 6, 5]


def test_nothing_is_guessed_where_nothing_is_known() -> None:
    phrases = Phrases()
    assert guess(phrases, [5, 6], 1, 2) == [-1, -1]
    learn(phrases, ([5, 6, 7], 1))
    assert guess(phrases, [5, 6], 1, 3) == [7, -1, -1]


def test_a_prompt_of_one_token_teaches_nothing() -> None:
    phrases = Phrases()
    phrases.read(torch.tensor([5]), 1)
    assert guess(phrases, [5], 1, 1) == [-1]


def test_of_what_is_learnt_at_once_the_last_wins() -> None:
    windows, prompts = torch.tensor([window([5, 6])] * 3), torch.tensor([1, 1, 1])
    for follows in ([7, 9, 8], [9, 8, 7], [7, 8, 9]):
        phrases = Phrases()
        phrases.learn(windows, torch.tensor(follows), prompts)
        assert guess(phrases, [5, 6], 1, 1) == follows[-1:]
    phrases = Phrases()
    phrases.read(torch.tensor([5, 6, 7, 9, 5, 6, 7, 8]), 1)
    assert guess(phrases, [3, 5, 6, 7], 1, 1) == [8]


def test_an_empty_place_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even to a key that looks like what stands in it."""
    phrases = Phrases()
    monkeypatch.setattr(phrases, "_keys", lambda windows, _: torch.full((len(windows), 5), -1))
    assert guess(phrases, [5, 6], 1, 2) == [-1, -1]


def test_what_is_made_in_inference_mode_learns_outside_of_it() -> None:
    with torch.inference_mode():
        phrases = Phrases()
        learn(phrases, ([5, 6, 7], 1))
    learn(phrases, ([5, 6, 8], 1))
    assert guess(phrases, [5, 6], 1, 1) == [8]


def test_large_tokens_and_negative_prompts_fit() -> None:
    phrases = Phrases()
    learn(phrases, ([2**31 - 1, 2**31 - 2, 2**31 - 3], -(2**63)))
    assert guess(phrases, [2**31 - 1, 2**31 - 2], -(2**63), 1) == [2**31 - 3]


@given(st.data())
def test_it_is_the_definition(data: st.DataObject) -> None:
    """A table of keys beside one that holds every window as it is."""
    tokens, prompts = st.lists(st.integers(2, 4), min_size=1, max_size=20), st.integers(0, 2)
    phrases, known = Phrases(), {}
    for said, prompt, quoted in data.draw(st.lists(st.tuples(tokens, prompts, st.booleans()), max_size=4)):
        if quoted:
            phrases.read(torch.tensor(said), prompt)
        else:
            learn(phrases, (said, prompt))
        for place in range(1, len(said)):
            for reach, own in lookahead._LEVELS:
                if own or not quoted:
                    known[reach, prompt if own else None, *window(said[:place])[-reach:]] = said[place]
    said, prompt = data.draw(tokens), data.draw(prompts)
    expected = []
    for _ in range(6):
        text = window([*said, *expected])
        found = [known.get((reach, prompt if own else None, *text[-reach:])) for reach, own in lookahead._LEVELS]
        expected.append(next((token for token in found if token is not None), -1))
    assert guess(phrases, said, prompt, 6) == expected
