from __future__ import annotations

import pytest

from introspect.errors import InputError
from introspect.reasoning.recipes.acceptance import parse_criterion

GOLD = ["New York City", "NYC"]


@pytest.mark.parametrize(
    ("name", "accepted", "refused"),
    [
        ("exact_match", ["the new york city.", "nyc"], ["New York", "in New York City", ""]),
        ("substring", ["in New York City", "NYC, of course"], ["New York", ""]),
        ("f1>=0.8", ["New York City", "New York"], ["York", "somewhere else", ""]),  # F1 of "New York": 2*2/(2+3)
        ("f1>=0.81", ["New York City"], ["New York"]),
        (" f1 >= 1 ", ["New York City"], ["New York"]),
    ],
)
def test_criteria(name: str, accepted: list[str], refused: list[str]) -> None:
    accepts = parse_criterion(name).accepts
    assert all(accepts(answer, GOLD) for answer in accepted)
    assert not any(accepts(answer, GOLD) for answer in refused)


def test_the_name_that_is_recorded_is_canonical() -> None:
    assert parse_criterion(" f1 >= .80 ").name == "f1>=0.8"
    assert parse_criterion("exact_match").name == "exact_match"


@pytest.mark.parametrize("name", ["f1", "f1>0.5", "f1>=0", "f1>=1.5", "f1>=x", "em", ""])
def test_others_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(
        InputError, match=r"^recipe.accept is .*, expected exact_match, substring, or f1>= and a number"
    ):
        parse_criterion(name)
