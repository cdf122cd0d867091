from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.benchmarks.evidence import (
    Fact,
    bare,
    chain_facts,
    describe_relation,
    mentions,
    names,
    same_name,
    split_sentences,
    states,
    tells,
    words,
)
from introspect.benchmarks.examples import Document


def test_words_drop_case_accents_and_punctuation():
    assert words("Émile CHAUTARD's U.S. film, 1917!") == " emile chautard s u s film 1917 "


@pytest.mark.parametrize(
    ("text", "phrase", "expected"),
    [
        ("born on 24 February, 1965.", "24 february 1965", True),
        ("in 1946", "4", False),
        ("Indian film", "India", False),
        ("anything", "?!", False),
        ("", "x", False),
    ],
)
def test_mentions_compares_whole_words(text, phrase, expected):
    assert mentions(text, phrase) is expected


def test_states_also_finds_what_is_glued_to_a_word_unless_it_is_short():
    assert states("an Indian film", "India")
    assert states("1916May 5, 2002", "May 5, 2002")
    assert not states("in 1946", "94")


def test_the_word_no_is_not_the_answer_no():
    assert not tells("There is no doubt.", "no")
    assert not tells("Yes, said he.", "Yes")
    assert tells("It is in Delft.", "Delft")


def test_names():
    assert bare("Petra (film)") == "Petra"
    assert bare("(film)") == "(film)"
    assert bare("Mitchells &amp; Butlers") == "Mitchells & Butlers"
    assert same_name("Émile Chautard (director)", "emile chautard")
    assert same_name("!!!", "!!!")
    assert not same_name("!!!", "???")
    assert not same_name("", "Ada")
    assert names("Otto Preminger", "Otto Ludwig Preminger")
    assert not names("Otto Preminger", "Preminger")
    assert not names("???", "Preminger")


@given(st.text())
def test_sentences_lose_nothing_but_blanks(text):
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


def test_sentences_do_not_end_after_initials_and_titles():
    text = 'Dr. J. K. Smith met Mrs. Hill in St. Ives. "Hello!" He left the U.S. Army. It rained. 5 died.'
    assert split_sentences(text) == [
        "Dr. J. K. Smith met Mrs. Hill in St. Ives.",
        '"Hello!"',
        "He left the U.S. Army.",
        "It rained.",
        "5 died.",
    ]


@pytest.mark.parametrize(
    ("relation", "expected"),
    [
        ("director", "the director of #1"),
        ("date of birth", "the date of birth of #1"),
        ("part of", "what #1 is part of"),
        ("owned by", "what #1 is owned by"),
        ("educated at", "where #1 was educated"),
        (
            "located in the administrative territorial entity",
            "the administrative territorial entity that #1 is located in",
        ),
        ("", "the  of #1"),
    ],
)
def test_relations_in_words(relation, expected):
    assert describe_relation(relation, " #1") == expected


DOCUMENTS = (
    Document("Goal", ("Goal is a film.", "It was shot in Delft.", "Bea liked Goal."), 0),
    Document("Ada (actor)", ("Ada is an actor.", "She starred in Goal.", "She is Dutch."), 1),
)


def chain(facts: list[Fact], answer: str, compares: bool = False) -> list[tuple[int, str, str | None]]:
    steps = chain_facts(DOCUMENTS, facts, answer, compares)
    assert all(step.goal is None for step in steps)
    return [(step.document, step.statement, step.finding) for step in steps]


def test_the_document_that_tells_the_answer_comes_last():
    assert chain([Fact(0, 1), Fact(1, 1)], "Delft") == [
        (1, "She starred in Goal.", None),
        (0, "It was shot in Delft.", "Delft"),
    ]


def test_the_document_that_another_mentions_comes_after_it():
    expected = [(1, "She starred in Goal.", None), (0, "Goal is a film.", None)]
    assert chain([Fact(0, 0), Fact(1, 1)], "elsewhere") == expected
    assert chain([Fact(1, 1), Fact(0, 0)], "elsewhere") == expected


def test_the_sentence_that_tells_the_answer_ends_the_chain():
    assert chain([Fact(1, 1), Fact(0, 2), Fact(0, 1), Fact(0, 0)], "Delft") == [
        (1, "She starred in Goal.", None),
        (0, "Goal is a film.", None),
        (0, "Bea liked Goal.", None),
        (0, "It was shot in Delft.", "Delft"),
    ]


def test_a_document_about_the_answer_is_read_in_order():
    assert chain([Fact(1, 1), Fact(0, 1), Fact(0, 0)], "Goal") == [
        (1, "She starred in Goal.", None),
        (0, "Goal is a film.", None),
        (0, "It was shot in Delft.", "Goal"),
    ]


def test_a_comparison_keeps_the_order_and_its_winner_is_no_finding():
    facts = [Fact(0, 0), Fact(1, 0)]
    assert chain(facts, "Ada", compares=True) == [(0, "Goal is a film.", None), (1, "Ada is an actor.", None)]
    assert chain(facts, "an actor", compares=True)[-1] == (1, "Ada is an actor.", "an actor")
    assert chain([Fact(1, 0), Fact(0, 0)], "yes", compares=True)[-1] == (0, "Goal is a film.", None)


def test_without_facts_there_is_no_chain():
    assert chain([], "Delft") == []
    assert chain([], "Delft", compares=True) == []
