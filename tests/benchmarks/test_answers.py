from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.benchmarks.answers import exact_match, f1_score, normalize_answer, substring_match
from tests.evaluation.metrics.factory import quick

SCORES = {"exact_match": exact_match, "substring_match": substring_match, "f1_score": f1_score}


@pytest.fixture(scope="module")
def golden(shared):
    cases = json.loads((shared / "golden" / "qa_metrics.json").read_text(encoding="utf-8"))
    return lambda function: [case for case in cases if case["fn"] == function]


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The Eiffel Tower", "eiffel tower"),
        ("  an   apple\ta day\n", "apple day"),
        ("U.S.A.", "usa"),
        ("Rock-'n'-Roll", "rocknroll"),
        ("1,234.50", "123450"),
        ("the-end of THE a b", "theend of b"),  # punctuation goes before articles
        ("“Quoted” – dash", "“quoted” – dash"),  # only ASCII punctuation goes
        ("The", ""),
        ("...", ""),
    ],
)
def test_normalisation(text, normalised):
    assert normalize_answer(text) == normalised


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "substring", "f1"),
    [
        ("Paris!", ["paris"], 1, 1, 1),
        ("Paris, France", ["Lyon", "Paris"], 0, 1, 2 / 3),
        ("x x y", ["x y y"], 0, 0, 2 / 3),  # words count as often as they occur
        ("Yes, both are American.", ["yes"], 0, 1, 0.4),  # no special case for yes and no
        ("not at all", ["no"], 0, 1, 0),  # substrings are found inside words
        ("Rome", ["Paris"], 0, 0, 0),
        ("", ["Paris"], 0, 0, 0),
        ("The", ["The The"], 0, 0, 0),  # an empty answer is never right
        ("anything", ["The", "a"], 0, 0, 0),  # and an empty reference never hit
        ("Paris", [], 0, 0, 0),
    ],
)
def test_scores(prediction, references, exact, substring, f1):
    assert exact_match(prediction, references) == exact
    assert substring_match(prediction, references) == substring
    assert f1_score(prediction, references) == pytest.approx(f1, abs=1e-12)


def test_normalisation_agrees_with_the_reference(golden):
    cases = golden("normalize_answer")
    assert len(cases) == 14
    for case in cases:
        assert normalize_answer(case["inputs"]["s"]) == case["output"], case["id"]


def test_scores_agree_with_the_reference(golden):
    cases = golden("compute_metrics")
    assert len(cases) == 30
    for case in cases:
        example = case["inputs"]["example"]
        references = [example["answer"], *example.get("answer_aliases", [])]
        for name, expected in case["output"].items():
            score = SCORES[name](example["predicted_answer"], references)
            assert score == pytest.approx(expected, abs=1e-12), (case["id"], name)


def test_only_an_empty_reference_is_scored_otherwise_than_in_the_reference(golden):
    """The reference finds an empty reference in every prediction; here it is found in none."""
    differences = {}
    for case in golden("match_functions"):
        for name, expected in case["output"].items():
            score = SCORES[name](case["inputs"]["prediction"], case["inputs"]["references"])
            if score != pytest.approx(expected, abs=1e-12):
                differences[case["id"], name] = (case["inputs"]["references"], expected, score)
    assert differences == {("dev-035", "substring_match"): ([""], 1.0, 0.0)}


WORDS = st.lists(st.sampled_from(["Paris", "the", "of", "light", "42", "U.S.", "—", "’s", "No"]), max_size=6)
PHRASES = WORDS.map(" ".join) | st.text(max_size=8)


@given(PHRASES, st.lists(PHRASES, min_size=1, max_size=3))
@quick
def test_an_exact_match_is_a_substring_match_and_a_full_f1(prediction, references):
    exact, substring, f1 = (score(prediction, references) for score in SCORES.values())
    assert {exact, substring} <= {0.0, 1.0}
    assert 0.0 <= f1 <= 1.0
    assert exact <= substring
    assert exact <= f1


@given(WORDS, st.data())
@quick
def test_f1_ignores_the_order_of_words_and_which_side_is_which(words, data):
    shuffled = " ".join(data.draw(st.permutations(words)))
    other = data.draw(PHRASES)
    assert f1_score(" ".join(words), [other]) == f1_score(shuffled, [other]) == f1_score(other, [shuffled])


@given(PHRASES, st.lists(PHRASES, min_size=1, max_size=3), PHRASES)
@quick
def test_a_further_reference_never_lowers_a_score(prediction, references, alias):
    for score in SCORES.values():
        assert score(prediction, [*references, alias]) >= score(prediction, references)


@given(st.text(max_size=30))
@quick
def test_a_normalised_text_has_single_spaces_and_no_case_punctuation_or_articles(text):
    normalised = normalize_answer(text)
    assert normalised.split() == [word for word in normalised.split(" ") if word]
    assert not set(normalised) & set("ABC.,-_'\"!?\n\t")
    assert not set(normalised.split()) & {"a", "an", "the"}
