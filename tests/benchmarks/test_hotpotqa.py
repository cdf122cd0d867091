from __future__ import annotations

from pathlib import Path

import pytest

from introspect.benchmarks.examples import Document, EvidenceStep, MultiHopExample
from introspect.benchmarks.hotpotqa import HotpotQA, tier
from introspect.core.errors import InputError
from tests.benchmarks.samples import (
    check_example,
    golden_tiers,
    hotpot_item,
    hub_row,
    real_files,
    real_rows,
    write_items,
)


def load(path: Path) -> list[MultiHopExample]:
    return HotpotQA(files={"test": path}).load("test")


def test_an_item_becomes_an_example(tmp_path):
    assert load(write_items(tmp_path / "test.json", [hotpot_item()])) == [
        MultiHopExample(
            id="h1",
            benchmark="hotpotqa",
            question="In which city is the maker of the Gizmo based?",
            answer="Delft",
            documents=(
                Document("Acme (company)", ("Acme makes things.", " It is based in Delft."), 0),
                Document("Decoy", ("Decoy is a duck.",), 1),
                Document("Gizmo", ("The Gizmo is a tool.", " It is made by Acme."), 2),
            ),
            evidence=(
                EvidenceStep(2, "It is made by Acme."),
                EvidenceStep(0, "It is based in Delft.", finding="Delft"),
            ),
            hops=2,
            tier="medium",
        )
    ]


def test_reads_all_real_items(shared):
    benchmark = HotpotQA(files=real_files(shared, "hotpotqa"), held_out=0)
    train, test = benchmark.load("train"), benchmark.load("test")
    assert (len(train), len(test)) == (100, 120)
    rows = [row for part in ("train", "test") for row in real_rows(shared, "hotpotqa", part)]
    for example, row in zip([*train, *test], rows, strict=True):
        check_example(example)
        assert example.id == row["_id"]
        assert example.hops == 2
        assert len(example.evidence) == len(row["supporting_facts"])
        assert all(step.finding is None for step in example.evidence[:-1])
        last = example.evidence[-1]
        assert last.finding in (None, example.answer)
        if row["type"] == "bridge":
            assert last.finding or example.answer in ("yes", "no")
    assert [example.tier for example in train] == golden_tiers(shared, "hotpotqa")


def test_real_chains_read_as_a_solution_would(shared):
    examples = {example.question: example for example in load(real_files(shared, "hotpotqa")["test"])}
    example = examples[
        "Hugo Rodríguez Romero is a Spanish footballer who plays for a team in the autonomous community of what?"
    ]
    assert [(example.documents[s.document].title, s.statement, s.finding) for s in example.evidence] == [
        (
            "Hugo Rodríguez Romero",
            "Hugo Rodríguez Romero (born 30 December 1989), simply known as Hugo, is a Spanish footballer who plays "
            "for FC Cartagena as a winger.",
            None,
        ),
        (
            "FC Cartagena",
            "Fútbol Club Cartagena is a Spanish football team based in Cartagena, in the autonomous community of "
            "Murcia.",
            "Murcia",
        ),
    ]
    compared = examples["Who lived to an older age, Elia Kazan or Moustapha Akkad?"]
    titles = [compared.documents[step.document].title for step in compared.evidence]
    assert titles == ["Elia Kazan", "Moustapha Akkad"]
    assert [step.finding for step in compared.evidence] == [None, None]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"level": "easy", "type": "bridge", "supporting_facts": [["a", 0]] * 5}, "easy"),
        ({"level": "medium", "type": "comparison", "supporting_facts": []}, "medium"),
        ({"level": "hard", "type": "comparison", "supporting_facts": [["a", 0], ["b", 0]]}, "easy"),
        ({"level": "hard", "type": "bridge", "supporting_facts": [["a", 0], ["b", 0]]}, "medium"),
        (
            {"level": "hard", "type": "comparison", "supporting_facts": {"title": ["a"] * 3, "sent_id": [0, 1, 2]}},
            "hard",
        ),
        ({"level": "Easy", "type": "bridge"}, "medium"),
    ],
)
def test_tier(row, expected):
    assert tier(row) == expected


@pytest.mark.parametrize("layout", ["columns", "records", "lines"])
def test_accepts_the_layouts_of_mirrors(tmp_path, layout):
    item = hotpot_item()
    expected = load(write_items(tmp_path / "expected.json", [item]))
    if layout == "columns":
        item = hub_row(item)
    elif layout == "records":
        item["context"] = [{"title": title, "content": sentences} for title, sentences in item["context"]]
        item["supporting_facts"] = [{"title": title, "sent_id": i} for title, i in item["supporting_facts"]]
    assert load(write_items(tmp_path / "test", [item], lines=layout == "lines")) == expected


def test_facts_that_point_nowhere_and_equal_titles_are_tolerated(tmp_path, caplog):
    item = hotpot_item(supporting_facts=[["Gizmo", 2], ["Gizmo", -1], ["Nobody", 0], ["Gizmo", 1], ["Gizmo", 1]])
    item["context"] += [["Gizmo", ["One.", "Two.", "Three."]]]
    (example,) = load(write_items(tmp_path / "test.json", [item]))
    assert [(s.document, s.statement) for s in example.evidence] == [(3, "Three."), (2, "It is made by Acme.")]
    assert example.hops == 2
    assert "2 x supporting fact that points at no sentence" in caplog.text
    assert "1 x item with two documents of the same title" in caplog.text


def test_an_item_without_usable_facts_keeps_its_question(tmp_path, caplog):
    (example,) = load(write_items(tmp_path / "test.json", [hotpot_item(supporting_facts=[])]))
    assert example.evidence == ()
    assert example.hops == 1
    assert "1 x item without a usable supporting fact" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_id": ...}, r"field '_id': is missing \(so is 'id'\)"),
        ({"question": ...}, "field 'question': is missing"),
        ({"question": " "}, "field 'question': is empty"),
        ({"answer": ...}, "field 'answer': is missing"),
        ({"answer": ""}, "field 'answer': is empty"),
        ({"answer": 1924}, "field 'answer': expected text, got 1924"),
        ({"type": ...}, "field 'type': is missing"),
        ({"level": ...}, "field 'level': is missing"),
        ({"context": ...}, "field 'context': is missing"),
        ({"context": []}, "field 'context': holds no documents"),
        ({"context": [["A", "text"]]}, r"field 'context\[0\].sentences': expected a list, got 'text'"),
        ({"context": [["A", ["a"]], [5, ["a"]]]}, r"field 'context\[1\].title': expected text, got 5"),
        ({"context": [["A", ["a", None]]]}, r"field 'context\[0\].sentences\[1\]': expected text, got null"),
        ({"supporting_facts": ...}, "field 'supporting_facts': is missing"),
        ({"supporting_facts": [["Gizmo"]]}, r"field 'supporting_facts\[0\]': expected \[title, sent_id\]"),
        (
            {"supporting_facts": [["Gizmo", "1"]]},
            r"field 'supporting_facts\[0\].sent_id': expected a whole number, got '1'",
        ),
    ],
)
def test_malformed_items_are_named(tmp_path, changes, message):
    path = write_items(tmp_path / "test.json", [hotpot_item(_id="h0"), hotpot_item(**changes)])
    with pytest.raises(InputError, match=r"test\.json, row 2, " + message):
        load(path)
