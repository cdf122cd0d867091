"""What one rollout scores: the final answer, how it ended, and answers that the reasoning names."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.benchmarks.answers import normalize_answer
from introspect.chat.protocol import extract_answer, split_reasoning
from introspect.evaluation import outcomes
from introspect.evaluation.outcomes import answer_hit, is_degenerate, is_unparsed, outcome
from tests.evaluation.metrics.factory import quick, rollout, runs


@pytest.fixture(scope="module")
def golden(shared):
    cases = json.loads((shared / "golden" / "qa_metrics.json").read_text(encoding="utf-8"))
    return lambda function: [case for case in cases if case["fn"] == function]


def test_whole_responses_agree_with_the_reference(golden):
    rows = 0
    for case in golden("end_to_end"):
        for given_row, expected in zip(case["inputs"]["rows"], case["output"]["rows"], strict=True):
            parts = split_reasoning(given_row["response"])
            scored = rollout(
                reasoning=parts.reasoning,
                content=parts.content,
                answer=given_row["answer"],
                aliases=tuple(given_row["answer_aliases"]),
            )
            assert scored.predicted_answer == expected["predicted_answer"]
            assert outcomes.is_correct(scored) == expected["exact_match"]
            assert outcomes.contains_reference(scored) == expected["substring_match"]
            assert outcomes.f1(scored) == pytest.approx(expected["f1_score"], abs=1e-12)
            rows += 1
    assert rows > 40


def test_an_answer_in_the_think_block_counts_in_the_reference_and_not_here(golden):
    extraction = {case["inputs"]["s"]: case["output"] for case in golden("extract_answer")}
    response = "<think>\nmaybe <answer>no</answer>\n</think>\n\n"
    assert extraction[response + "<answer>Yes.</answer>"] == "Yes."  # where both look, both agree
    assert extract_answer(response) == "no"  # the reference's rule reads the whole response
    parts = split_reasoning(response)
    assert rollout(reasoning=parts.reasoning, content=parts.content).predicted_answer == ""


@pytest.mark.parametrize(
    ("reasoning", "references", "hit"),
    [
        ("So it must be Paris.", ["Paris"], True),
        ("So it must be\n\nthe U.S.A., right?", ["The USA"], True),
        ("Perhaps the City of Light?", ["Paris", "City of Light"], True),
        ("A “Paris” – or so they say.", ["Paris"], True),  # typographic marks are no letters
        ("The Parisians said so.", ["Paris"], False),  # whole words only, unlike substring match
        ("I do not know.", ["no"], False),
        ("It was 1984.", ["198"], False),
        ("The city of lights.", ["City of Light"], False),
        ("New York. City hall.", ["York City"], True),  # sentence ends are punctuation
        ("Anything at all.", ["The", "..."], False),  # an empty reference is in no text
        ("c++ or (a|b)", ["c++", "x"], True),  # references are words, not patterns
        ("", ["Paris"], False),
    ],
)
def test_a_hit_is_a_reference_among_the_words(reasoning, references, hit):
    assert answer_hit(reasoning, references) is hit


RUN = [
    rollout("a", reasoning="Paris.", predicted="Paris"),  # hit, right
    rollout("b", reasoning="Paris. But no.", predicted="Rome"),  # hit, wrong
    rollout("c", reasoning="Paris. " * 50, finish_reason="length"),  # hit, never answered
    rollout("d", reasoning="Rome.", predicted="Rome"),  # miss, wrong
    rollout("e", reasoning="", predicted="Paris"),  # guessed without reasoning
]


def test_the_outcome_names_the_failure():
    found = [outcome(item) for item in RUN]
    assert found == ["correct", "answer-inclusive error", "degenerate", "wrong", "correct"]
    assert outcome(rollout(content="It is Paris.")) == "no answer"
    assert [outcomes.failure_is_answer_inclusive(item) for item in RUN] == [None, True, True, False, None]
    assert [outcomes.has_no_reasoning(item) for item in RUN] == [False] * 4 + [True]


@given(st.text(max_size=12), st.text(max_size=12), st.text(st.sampled_from("abc "), min_size=1, max_size=6))
@quick
def test_a_reference_set_between_words_is_hit_unless_it_is_empty(before, after, reference):
    assert answer_hit(f"{before} {reference} {after}", [reference]) == (normalize_answer(reference) != "")


ENDS = [
    rollout("a", predicted="Paris"),
    rollout("b", predicted="Paris", finish_reason="length"),  # answered, then ran on: still degenerate
    rollout("c", finish_reason="length"),
    rollout("d", finish_reason="content_filter"),
    rollout("e", content="It is Paris."),  # no tags
    rollout("f", predicted="  "),
    rollout("g", predicted="Rome", finish_reason="tool_calls"),
    rollout("h", predicted="Rome", completion_tokens=10**6),  # long, but it ended
]


def test_the_finish_reason_decides():
    assert [item.example_id for item in ENDS if is_degenerate(item)] == ["b", "c", "d"]
    assert [item.example_id for item in ENDS if is_unparsed(item)] == ["e", "f"]


@given(runs())
@quick
def test_no_rollout_is_both_degenerate_and_unparsed(run):
    assert not any(is_degenerate(rollout) and is_unparsed(rollout) for rollout in run)
    assert all(is_degenerate(rollout) or is_unparsed(rollout) or rollout.predicted_answer for rollout in run)
