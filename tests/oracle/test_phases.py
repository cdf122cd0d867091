"""The phases of a trace by its wording, and where it names the answer."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.evaluation.outcomes import answer_hit
from introspect.oracle.phases import arrival, passages, phases_present
from introspect.oracle.trace_reading import read_trace

QUESTION = "Who is the king of Rome?"
WRITTEN = st.text(alphabet="aA the.?!\n\"'”Wait,No é", max_size=60)


@pytest.mark.parametrize(
    ("sentence", "phase", "shows"),
    [
        ("We are asked: Who is the king of Rome?", 1, False),
        ("The document on Rome matters; the others can wait.", 1, True),
        ("The plan: find the king of Rome.", 2, True),
        ("First I look at Rome, then at its king.", 2, True),
        ("Numa ruled Rome.", 3, False),
        ("Is this sound? Yes.", 3, True),
        ("Wait, did we mix up any documents? No.", 4, True),
        ("But wait, that is another Rome.", 4, False),
        ("We verify: Rome leads to Numa.", 5, True),
        ("Should I check again? Maybe.", 3, False),
    ],
)
def test_a_sentence_by_its_words(sentence: str, phase: int, shows: bool) -> None:
    first = passages(sentence, QUESTION)[0]
    assert (first.phase, first.shows) == (phase, shows)


def test_replies_and_conclusions_stay_with_what_they_follow() -> None:
    trace = "Does this hold? Yes.\n\nWe verify: all is well. The answer is Numa."
    assert [(part.text, part.phase) for part in passages(trace, QUESTION)] == [
        ("Does this hold? Yes.\n\n", 3),
        ("We verify: all is well. The answer is Numa.", 5),
    ]


def test_a_draft_shows_no_phase() -> None:
    trace = "Okay, the question asks for the king of Rome.\n\nThe king of Rome is Numa.\n\nSo the answer could be Numa."
    found = passages(trace, QUESTION)
    assert [part.phase for part in found] == [1, 3]
    assert phases_present(found) == ()


def test_nothing_is_read_in_nothing() -> None:
    assert passages("", QUESTION) == []
    assert phases_present([]) == ()


@given(WRITTEN, WRITTEN)
def test_passages_are_the_trace(trace: str, question: str) -> None:
    found = passages(trace, question)
    assert "".join(part.text for part in found) == trace
    assert all(part.text for part in found)
    pairs = [(part.phase, part.shows) for part in found]
    assert all(first != second for first, second in pairwise(pairs))


@pytest.mark.parametrize(
    ("trace", "references", "found"),
    [
        ("Rome is old. Numa, the king.", ["numa"], "Numa"),
        ('It says "U.S. Steel".', ["US Steel"], "U.S. Steel"),
        ("The king of the Rome is.", ["king of Rome"], "king of the Rome"),
        ("Annuma is not he; Numa is.", ["Numa"], "Numa"),
        ("First Tullus, then Numa.", ["Numa", "Tullus"], "Tullus"),
        ("Nobody.", ["Numa"], None),
        ("Nobody.", ["the"], None),
        ("", ["Numa"], None),
    ],
)
def test_the_first_mention(trace: str, references: list[str], found: str | None) -> None:
    span = arrival(trace, references)
    assert (None if span is None else trace[slice(*span)]) == found


@given(WRITTEN, st.lists(WRITTEN, max_size=3))
def test_there_is_an_arrival_where_there_is_a_hit(trace: str, references: list[str]) -> None:
    span = arrival(trace, references)
    assert (span is not None) == answer_hit(trace, references)
    if span is not None:
        start, end = span
        assert 0 <= start < end <= len(trace)
        assert answer_hit(trace[start:end], references)


def test_the_oracles_traces_show_the_phases_that_its_judge_finds() -> None:
    from introspect.benchmarks.hopworld import Hopworld
    from introspect.oracle.writing import write_plain, write_trace

    examples = Hopworld(seed=1, sizes={"test": 30}).load("test", limit=30)
    for example in examples:
        trace = write_trace(example, random.Random(0))
        by_words = phases_present(passages(trace, example.question))
        assert by_words == read_trace(trace, example).phases == (1, 2, 3, 4, 5)
        assert phases_present(passages(write_plain(example, random.Random(0)), example.question)) == ()
