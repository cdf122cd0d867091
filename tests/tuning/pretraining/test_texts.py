from __future__ import annotations

import random
import re
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.benchmarks.hopworld import NAMES, draw_world
from introspect.chat.protocol import extract_answer, split_reasoning
from introspect.tuning.pretraining.texts import (
    Curriculum,
    FailureModes,
    PretrainingTexts,
    write_practice,
    write_reasoning,
)
from introspect.tuning.pretraining.tokenizer import build_tokenizer

NO_FAILURES = dict.fromkeys(("wander", "doubt", "stray", "recheck", "abandon", "degenerate"), 0.0)
FACT = re.compile(r"The \w+ of \w+ is \w+\.")

seeds = st.integers(0, 10_000)


def respond(seed, **probabilities):
    world = draw_world(random.Random(seed), 2 + seed % 3)
    return world, *write_reasoning(random.Random(seed), world, FailureModes(**{**NO_FAILURES, **probabilities}))


shared_tokenizer = cache(build_tokenizer)  # hypothesis has no fixtures


@pytest.fixture
def tokenizer():
    return shared_tokenizer()


def texts(tokenizer, size=60, seed=0, **curriculum):
    return PretrainingTexts(tokenizer, size, seed, Curriculum(**curriculum))


@given(seeds)
def test_without_failure_modes_the_reasoning_follows_the_chain(seed):
    world, response, ends = respond(seed)
    reasoning, content, _ = split_reasoning(response)
    assert ends
    assert FACT.findall(reasoning) == [str(fact) for fact in world.chain]
    assert extract_answer(content) == world.chain[-1].object


@given(seeds)
def test_wandering_reads_every_document_once_and_states_only_facts(seed):
    world, response, _ = respond(seed, wander=1.0)
    visited = re.findall(r"let me look at (\w+)\.", response)
    assert sorted(visited) == sorted(facts[0].subject for facts in world.documents)
    assert set(FACT.findall(response)) == {str(fact) for facts in world.documents for fact in facts}
    assert extract_answer(response) == world.chain[-1].object


@given(seeds)
def test_an_abandoned_answer_was_reached_before(seed):
    world, response, ends = respond(seed, abandon=1.0)
    right = world.chain[-1].object
    assert ends
    assert f"So the answer could be {right}." in response
    assert extract_answer(response) != right


@given(seeds)
def test_straying_goes_on_from_other_entities(seed):
    world, response, _ = respond(seed, stray=1.0)
    assert response.count("maybe I should use") == len(world.chain) - 1
    assert extract_answer(response) in {name for names in NAMES.values() for name in names}


@given(seeds)
def test_a_degenerate_response_never_ends(seed):
    _, response, ends = respond(seed, degenerate=1.0)
    assert not ends
    assert "</think>" not in response
    assert response.count("Wait, let me check again.") == 24


@given(seeds)
def test_a_recheck_derives_the_answer_again(seed):
    world, response, ends = respond(seed, recheck=0.5)
    assert ends
    checks = response.count("let me check again.")
    assert response.count(f"So the answer could be {world.chain[-1].object}.") == checks + 1


@given(seeds, st.integers(1, 20))
def test_practice_teaches_only_what_can_be_looked_up(seed, lookups):
    rng = random.Random(seed)
    facts = [fact for facts in draw_world(rng, 3).documents for fact in facts]
    context, *segments = write_practice(rng, " ".join(map(str, facts)), facts, lookups)
    assert context[1] is False
    assert [learnt for _, learnt in segments] == [False, True, False] * lookups
    said = FACT.findall("".join(text for text, _ in segments))
    assert len(said) == lookups
    assert set(said) <= set(map(str, facts))


def test_a_text_is_a_function_of_seed_and_number(tokenizer):
    again = texts(tokenizer)
    assert [texts(tokenizer)[n] for n in (0, 30, 59)] == [again[n] for n in (0, 30, 59)]
    assert texts(tokenizer, seed=1)[30] != again[30]
    with pytest.raises(IndexError):
        again[60]


def test_texts_are_facts_then_documents_then_reasoning(tokenizer):
    data = texts(tokenizer, size=100, facts=0.1, reading=0.1, practice_every=7)

    def kind(number):
        whole = "".join(text for text, _ in data.segments(number))
        return "reasoning" if "<think>" in whole else "documents" if "Documents:" in whole else "facts"

    kinds = [kind(number) for number in range(100)]
    assert kinds[:10] == ["facts"] * 10
    assert kinds[10:20] == ["documents"] * 10
    assert kinds[20:] == ["reasoning" if number % 7 else "documents" for number in range(20, 100)]


def test_no_text_is_longer_than_allowed(tokenizer):
    data = texts(tokenizer, max_length=50)
    assert max(len(tokens) for tokens, _ in data) == 50


def test_reasoning_is_learnt_from_the_assistants_turn_on(tokenizer):
    tokens, learnt = texts(tokenizer, facts=0.0, reading=0.0)[1]
    assert tokenizer.decode(tokens[: learnt.index(True)]).endswith("<|im_start|>assistant\n")
    assert all(learnt[learnt.index(True) :])


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_decoding_gives_every_text_back(text):
    tokenizer = shared_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


def test_a_name_is_one_token(tokenizer):
    for names in NAMES.values():
        for name in names:
            assert len(tokenizer(f" {name}", add_special_tokens=False)["input_ids"]) == 1
