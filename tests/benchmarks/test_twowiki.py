from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from introspect.benchmarks.examples import Document, EvidenceStep, MultiHopExample
from introspect.benchmarks.twowiki import TwoWiki, tier
from introspect.core.errors import InputError
from tests.benchmarks.samples import (
    check_example,
    golden_tiers,
    real_files,
    real_rows,
    twowiki_item,
    write_items,
)


def load(path: Path) -> list[MultiHopExample]:
    return TwoWiki(files={"test": path}).load("test")


def one(tmp_path: Path, **changes: Any) -> MultiHopExample:
    (example,) = load(write_items(tmp_path / "test.json", [twowiki_item(**changes)]))
    return example


def steps(example: MultiHopExample) -> list[tuple[str, str | None, str | None, str]]:
    """(title of the document, goal, finding, statement) per step."""
    return [(example.documents[s.document].title, s.goal, s.finding, s.statement) for s in example.evidence]


def test_an_item_becomes_an_example(tmp_path):
    assert one(tmp_path) == MultiHopExample(
        id="w1",
        benchmark="2wikimultihopqa",
        question="In which city is the maker of the Gizmo based?",
        answer="Delft",
        documents=(
            Document("Acme (company)", ("Acme makes things.", " It is based in Delft."), 0),
            Document("Decoy", ("Decoy is a duck.",), 1),
            Document("Gizmo", ("The Gizmo is a tool.", " It is made by Acme."), 2),
        ),
        evidence=(
            EvidenceStep(2, "It is made by Acme.", "the manufacturer of Gizmo", "Acme"),
            EvidenceStep(0, "It is based in Delft.", "the headquarters location of #1", "Delft"),
        ),
        hops=2,
        tier="medium",
    )


def test_reads_all_real_items(shared, caplog):
    benchmark = TwoWiki(files=real_files(shared, "2wikimultihopqa"), held_out=0)
    train, test = benchmark.load("train"), benchmark.load("test")
    assert (len(train), len(test)) == (200, 100)
    rows = [row for part in ("train", "test") for row in real_rows(shared, "2wikimultihopqa", part)]
    for example, row in zip([*train, *test], rows, strict=True):
        check_example(example)
        assert example.id == row["_id"]
        assert example.hops == (4 if row["type"] == "bridge_comparison" else 2)
        assert [step.finding for step in example.evidence] == [triple[2] for triple in row["evidences"]]
        if row["type"] in ("compositional", "inference"):
            assert "#1" in (example.evidence[1].goal or "")
            assert example.evidence[-1].finding == example.answer
        if row["type"] == "comparison":
            assert not any("#" in (step.goal or "") for step in example.evidence)
    assert [example.tier for example in train] == golden_tiers(shared, "2wikimultihopqa")
    assert "13 x item with two documents of the same title" in caplog.text
    assert "2 x supporting fact that points at no sentence" in caplog.text


def test_nearly_every_real_statement_gives_its_finding(shared):
    benchmark = TwoWiki(files=real_files(shared, "2wikimultihopqa"), held_out=0)
    chain = [step for split in ("train", "test") for e in benchmark.load(split) for step in e.evidence]
    lacking = [s for s in chain if (s.finding or "").casefold() not in s.statement.casefold()]
    assert len(chain) == 730
    assert len(lacking) <= 20


def test_real_chains_read_as_a_solution_would(shared):
    examples = {e.question: e for e in TwoWiki(files=real_files(shared, "2wikimultihopqa"), held_out=0).load("train")}
    compared = examples["Which film has the director who is older, Assigned To Danger or Elvis: That'S The Way It Is?"]
    assert steps(compared)[1:3] == [
        (
            "Elvis: That's the Way It Is",
            "the director of Elvis: That's the Way It Is",
            "Denis Sanders",
            "Elvis: That's the Way It Is is a 1970 American documentary film directed by Denis Sanders.",
        ),
        (
            "Budd Boetticher",
            "the date of birth of #1",
            "July 29, 1916",
            'Oscar "Budd" Boetticher Jr. (July 29, 1916 – November 29, 2001) was an American film director.',
        ),
    ]
    # The annotation points at sentence 5 of a document of five: the fourth is meant.
    assert steps(examples["When did Jørgen Buckhøj's mother die?"])[0] == (
        "Jørgen Buckhøj",
        "the mother of Jørgen Buckhøj",
        "Henny Lindorff Buckhøj",
        "His parents were actors Henny Lindorff Buckhøj and Per Buckhøj.",
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("comparison", "easy"),
        ("inference", "medium"),
        ("compositional", "medium"),
        ("bridge_comparison", "hard"),
        ("bridge-comparison", "medium"),
        (None, "medium"),
    ],
)
def test_tier(kind, expected):
    assert tier({"type": kind}) == expected


@pytest.mark.parametrize(
    "evidences",
    [
        {"fact": ["Gizmo", "Acme"], "relation": ["manufacturer", "headquarters location"], "entity": ["Acme", "Delft"]},
        [
            {"fact": "Gizmo", "relation": "manufacturer", "entity": "Acme"},
            {"fact": "Acme", "relation": "headquarters location", "entity": "Delft"},
        ],
    ],
)
def test_accepts_the_layouts_of_mirrors(tmp_path, evidences):
    context = [{"title": title, "content": sentences} for title, sentences in twowiki_item()["context"]]
    assert one(tmp_path, evidences=evidences, context=context, id="w1", _id=...) == one(tmp_path)


def test_a_comparison_of_four_documents_links_each_director(tmp_path):
    example = one(
        tmp_path,
        type="bridge_comparison",
        answer="Beta",
        context=[
            ["Beta", ["Beta is a film by Émile Bo."]],
            ["Emile Bo (director)", ["He was born in 1900."]],
            ["Alpha (film)", ["Alpha is a film.", "It is by Ann Ay."]],
            ["Ann Ay", ["Ann Ay was born in 1950."]],
        ],
        supporting_facts=[["Alpha (film)", 1], ["Beta", 0], ["Ann Ay", 0], ["Emile Bo (director)", 0]],
        evidences=[
            ["Alpha", "director", "Ann Ay"],
            ["Beta", "director", "Émile Bo"],
            ["Ann Ay", "date of birth", "1950"],
            ["Emile Bo", "date of birth", "1900"],
        ],
    )
    assert steps(example) == [
        ("Alpha (film)", "the director of Alpha", "Ann Ay", "It is by Ann Ay."),
        ("Beta", "the director of Beta", "Émile Bo", "Beta is a film by Émile Bo."),
        ("Ann Ay", "the date of birth of #1", "1950", "Ann Ay was born in 1950."),
        ("Emile Bo (director)", "the date of birth of #2", "1900", "He was born in 1900."),
    ]
    assert (example.hops, example.tier) == (4, "hard")


def test_ranks_and_other_spellings_do_not_break_the_chain(tmp_path):
    renamed = one(tmp_path, evidences=[["Gizmo", "maker", "Acme, Ltd"], ["The old firm", "seat", "Delft"]])
    assert [step.goal for step in renamed.evidence] == ["the maker of Gizmo", "the seat of #1"]
    compared = one(tmp_path, type="comparison", evidences=[["Gizmo", "maker", "Acme, Ltd"], ["Acme", "seat", "Delft"]])
    assert [step.goal for step in compared.evidence] == ["the maker of Gizmo", "the seat of #1"]
    unlinked = one(tmp_path, type="comparison", evidences=[["Gizmo", "maker", "Acme"], ["Decoy", "kind", "duck"]])
    assert [step.goal for step in unlinked.evidence] == ["the maker of Gizmo", "the kind of Decoy"]


@pytest.mark.parametrize(
    ("facts", "triples", "expected"),
    [
        # by what is found: no title is the subject
        ([("B", 0), ("A", 0)], [("x", "r", "one"), ("y", "r", "two")], ["A says one.", "B says two."]),
        # by the order of the annotation: the names settle nothing
        ([("B", 0), ("A", 0)], [("x", "r", "none"), ("y", "r", "none")], ["B says two.", "A says one."]),
        # by the subject: more facts than triples, so the order tells nothing
        ([("B", 0), ("A", 0), ("A", 1)], [("Ada", "r", "none")], ["Ada says three."]),
    ],
)
def test_a_triple_is_found_by_title_finding_order_and_subject(tmp_path, facts, triples, expected):
    context = [["A", ["A says one.", "Ada says three."]], ["B", ["B says two."]]]
    example = one(tmp_path, context=context, supporting_facts=facts, evidences=triples)
    assert [step.statement for step in example.evidence] == expected


@pytest.mark.parametrize(
    ("sentences", "fact", "expected"),
    [
        (["Acme", "is based in Delft."], 0, "Acme is based in Delft."),
        (["Acme Ltd.", "(once Bcme) is in Delft."], 1, "Acme Ltd. (once Bcme) is in Delft."),
        (["Acme is old.", "It is in Delft.", "It is big."], 2, "It is in Delft."),
        (["Acme is old.", "It is big."], 1, "It is big."),
    ],
)
def test_torn_and_miscounted_sentences_are_mended(tmp_path, sentences, fact, expected):
    item = twowiki_item()
    example = one(
        tmp_path,
        context=[["Acme (company)", sentences], *item["context"][1:]],
        supporting_facts=[["Gizmo", 1], ["Acme (company)", fact]],
    )
    assert example.evidence[1].statement == expected


@pytest.mark.parametrize("evidences", [..., [], None])
def test_without_evidences_the_supporting_facts_make_the_chain(tmp_path, caplog, evidences):
    example = one(tmp_path, evidences=evidences)
    assert steps(example) == [
        ("Gizmo", None, None, "It is made by Acme."),
        ("Acme (company)", None, "Delft", "It is based in Delft."),
    ]
    assert ("1 x item without evidences" in caplog.text) is (evidences != [])


def test_without_any_annotation_there_is_no_chain(tmp_path):
    example = one(tmp_path, supporting_facts=[], evidences=[["Gizmo", "manufacturer", "Acme"]])
    assert example.evidence == ()
    assert example.hops == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_id": ...}, r"field '_id': is missing \(so is 'id'\)"),
        ({"question": None}, "field 'question': expected text, got null"),
        ({"answer": " "}, "field 'answer': is empty"),
        ({"type": ...}, "field 'type': is missing"),
        ({"context": {"title": []}}, "field 'context.sentences': is missing"),
        ({"context": []}, "field 'context': holds no documents"),
        ({"supporting_facts": ...}, "field 'supporting_facts': is missing"),
        (
            {"supporting_facts": [["Gizmo", None]]},
            r"field 'supporting_facts\[0\].sent_id': expected a whole number, got null",
        ),
        ({"evidences": "none"}, "field 'evidences': expected a list, got 'none'"),
        ({"evidences": [["a", "b"]]}, r"field 'evidences\[0\]': expected \[fact, relation, entity\]"),
        ({"evidences": [["a", "b", 3]]}, r"field 'evidences\[0\].object': expected text, got 3"),
    ],
)
def test_malformed_items_are_named(tmp_path, changes, message):
    path = write_items(tmp_path / "test.json", [twowiki_item(_id="w0"), twowiki_item(**changes)])
    with pytest.raises(InputError, match=r"test\.json, row 2, " + message):
        load(path)
