"""hopworld: every answer follows from the documents by a program that only reads them."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.benchmarks.examples import MultiHopExample
from introspect.benchmarks.hopworld import HOPS, NAMES, Hopworld, draw_world, worlds
from introspect.core.errors import InputError

FACT = re.compile(r"The (\w+) of (\w+) is (\w+)\.")


def solve(example: MultiHopExample) -> str:
    """Answer the question from the rendered documents alone."""
    facts = {(relation, subject): found for relation, subject, found in FACT.findall(example.context)}
    path, current = re.fullmatch(r"(?:Who|What) is (.*) of (\w+)\?", example.question).groups()
    for relation in reversed(path.split(" of ")):
        current = facts[relation.removeprefix("the "), current]
    return current


@given(seed=st.integers(0, 10**6), hops=st.sampled_from(HOPS), documents=st.integers(5, 10))
def test_every_answer_can_be_looked_up(seed: int, hops: int, documents: int) -> None:
    example = draw_world(random.Random(seed), hops, documents).example("x")
    assert solve(example) == example.answer
    assert len(example.documents) == documents
    assert example.hops == hops == len(example.evidence)


@given(seed=st.integers(0, 10**6), hops=st.sampled_from(HOPS))
def test_no_hop_has_two_answers(seed: int, hops: int) -> None:
    world = draw_world(random.Random(seed), hops)
    facts = [fact for document in world.documents for fact in document]
    assert len({(fact.subject, fact.relation) for fact in facts}) == len(facts)
    assert len({fact.relation for fact in world.chain}) == hops
    visited = [world.chain[0].subject, *(fact.object for fact in world.chain)]
    assert len(set(visited)) == hops + 1
    assert all(fact.subject != fact.object for fact in facts)


def test_evidence_points_at_the_sentence_that_states_it() -> None:
    for world in islice(worlds("test", 3), 30):
        example = world.example("x")
        for step in example.evidence:
            assert step.statement in example.documents[step.document].sentences
        assert [step.goal for step in example.evidence[1:]] == [
            f"the {fact.relation} of #{number}" for number, fact in enumerate(world.chain[1:], start=1)
        ]


def test_splits_are_disjoint_whatever_the_seed() -> None:
    seen = {
        split: {
            frozenset(str(f) for d in w.documents for f in d)
            for seed in (0, 1)
            for w in islice(worlds(split, seed), 40)
        }
        for split in ("train", "validation", "test")
    }
    assert all(len(facts) == 80 for facts in seen.values())
    assert not seen["train"] & seen["test"]
    assert all(world.split == "validation" for world in islice(worlds("validation", 7), 20))


def test_the_same_seed_gives_the_same_questions() -> None:
    sizes = {"train": 5, "test": 4}
    first = Hopworld(seed=1, sizes=sizes)
    assert first.load("train") == Hopworld(seed=1, sizes=sizes).load("train")
    assert first.load("train") != Hopworld(seed=2, sizes=sizes).load("train")
    assert first.load("train", limit=2) == first.load("train")[:2]
    assert [example.id for example in first.load("test")] == [f"test-1-{number}" for number in range(4)]
    assert [example.hops for example in first.load("test")] == [2, 3, 4, 2]
    assert first.load("validation") == []


def test_question_wording() -> None:
    world = next(worlds("train", 0))
    relations = " of ".join(f"the {fact.relation}" for fact in reversed(world.chain))
    word = "Who" if world.chain[-1].object in NAMES["person"] else "What"
    assert world.question == f"{word} is {relations} of {world.chain[0].subject}?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": {"trian": 3}}, "unknown split 'trian'"),
        ({"sizes": {"train": 3}, "documents": 4}, "more than 4 documents"),
        ({"sizes": {"train": 3}, "facts_per_document": 3}, "1 or 2 facts"),
    ],
)
def test_bad_settings_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Hopworld(**arguments)


def test_unknown_split() -> None:
    with pytest.raises(InputError, match="no split 'dev'"):
        next(worlds("dev", 0))
