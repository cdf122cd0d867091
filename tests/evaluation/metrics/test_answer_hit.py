from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.evaluation.metrics.answer_hit import (
    AnswerHitRate,
    AnswerInclusiveErrorRate,
    AnswerInclusiveErrorShareOfFailures,
    WithoutReasoningRate,
)
from introspect.evaluation.metrics.answers import ExactMatch
from introspect.evaluation.outcomes import answer_hit
from tests.evaluation.metrics.factory import quick, rollout, runs


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


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (AnswerHitRate, 3 / 5),
        (AnswerInclusiveErrorRate, 2 / 5),
        (AnswerInclusiveErrorShareOfFailures, 2 / 3),
        (WithoutReasoningRate, 1 / 5),
    ],
)
def test_both_denominators(metric, expected):
    instance = metric()
    instance.update(RUN)
    assert instance.compute().item() == pytest.approx(expected, abs=1e-12)


def test_a_share_of_failures_needs_failures():
    instance = AnswerInclusiveErrorShareOfFailures()
    instance.update([RUN[0]])
    assert math.isnan(instance.compute().item())


@given(runs())
@quick
def test_the_two_rates_of_answer_inclusive_errors_differ_by_the_failure_rate(run):
    values = {}
    for metric in (ExactMatch(), AnswerHitRate(), AnswerInclusiveErrorRate(), AnswerInclusiveErrorShareOfFailures()):
        metric.update(run)
        values[type(metric)] = metric.compute().item()
    failures = 1 - values[ExactMatch]
    assert values[AnswerInclusiveErrorRate] <= min(failures, values[AnswerHitRate]) + 1e-12
    if failures > 0:
        share = values[AnswerInclusiveErrorShareOfFailures]
        assert share * failures == pytest.approx(values[AnswerInclusiveErrorRate], abs=1e-12)


@given(st.text(max_size=12), st.text(max_size=12), st.text(st.sampled_from("abc "), min_size=1, max_size=6))
@quick
def test_a_reference_set_between_words_is_hit_unless_it_is_empty(before, after, reference):
    from introspect.benchmarks.answers import normalize_answer

    assert answer_hit(f"{before} {reference} {after}", [reference]) == (normalize_answer(reference) != "")
