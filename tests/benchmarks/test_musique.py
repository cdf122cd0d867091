from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from introspect.benchmarks.examples import Document, EvidenceStep, MultiHopExample
from introspect.benchmarks.musique import MuSiQue, phrase, tier
from introspect.core.errors import InputError
from tests.benchmarks.samples import (
    check_example,
    golden_tiers,
    hub_folder,
    musique_item,
    pairs_to_columns,
    real_files,
    real_rows,
    write_items,
)


def load(path: Path) -> list[MultiHopExample]:
    return MuSiQue(files={"test": path}).load("test")


def test_an_item_becomes_an_example(tmp_path):
    assert load(write_items(tmp_path / "test.jsonl", [musique_item()], lines=True)) == [
        MultiHopExample(
            id="2hop__1_2",
            benchmark="musique",
            question="In which city is the maker of the Gizmo based?",
            answer="Delft",
            aliases=("City of Delft",),
            documents=(
                Document("Acme", ("Acme likes Delft. Acme is based in Delft now.",), 0),
                Document("Gizmo", ("The Gizmo is a tool. Dr. Acme made it.",), 1),
            ),
            evidence=(
                EvidenceStep(1, "Dr. Acme made it.", "the manufacturer of Gizmo", "Acme"),
                EvidenceStep(0, "Acme is based in Delft now.", "Where is #1 based?", "Delft"),
            ),
            hops=2,
            tier="easy",
        )
    ]


def test_reads_all_real_items(shared):
    benchmark = MuSiQue(files=real_files(shared, "musique"), held_out=0)
    train, test = benchmark.load("train"), benchmark.load("test")
    assert (len(train), len(test)) == (100, 120)
    rows = real_rows(shared, "musique", "train") + real_rows(shared, "musique", "test")
    for example, row in zip([*train, *test], rows, strict=True):
        check_example(example)
        steps = row["question_decomposition"]
        assert example.id == row["id"]
        assert example.hops == int(row["id"][0]) == len(steps) == len(example.evidence)
        assert list(example.aliases) == row["answer_aliases"]
        assert [step.finding for step in example.evidence] == [step["answer"] for step in steps]
        labels = [example.documents[step.document].label for step in example.evidence]
        assert labels == [step["paragraph_support_idx"] for step in steps]
        assert example.evidence[-1].finding == example.answer
        assert max(len(step.statement) for step in example.evidence) < 600
        asks = [(step.goal or "").endswith("?") for step in example.evidence]
        assert asks == [">>" not in step["question"] for step in steps]
    assert [example.tier for example in train] == golden_tiers(shared, "musique")


def test_a_real_chain_reads_as_a_solution_would(shared):
    examples = MuSiQue(files=real_files(shared, "musique"), held_out=0).load("train")
    example = next(e for e in examples if e.question.startswith("How many Publix stores are in the state"))
    assert [(e.goal, e.finding, example.documents[e.document].title, e.statement[:46]) for e in example.evidence] == [
        (
            "the performer of Hello Love",
            "Hank Snow",
            "Hello Love (song)",
            '"Hello Love" is a 1974 single by Hank Snow.',
        ),
        (
            "What city did #1 live when he died?",
            "Tennessee",
            "Hank Snow",
            "Snow moved to Nashville, Tennessee, in 1949, a",
        ),
        (
            "Which state borders #2 to the east?",
            "North Carolina",
            "Tennessee",
            "Tennessee is bordered by Kentucky and Virginia",
        ),
        (
            "How many publix stores are in #3?",
            "35",
            "Publix",
            "Publix operates throughout the Southeastern Un",
        ),
    ]
    assert (example.hops, example.tier) == (4, "hard")


def test_labels_are_the_paragraphs_own(tmp_path):
    item = musique_item()
    item["paragraphs"][0]["idx"], item["paragraphs"][1]["idx"] = 7, 3
    for step, idx in zip(item["question_decomposition"], (3, 7), strict=True):
        step["paragraph_support_idx"] = idx
    (example,) = load(write_items(tmp_path / "test", [item]))
    assert example.context.splitlines()[0].startswith("Document [7] (Title: Acme) Acme likes")
    assert [step.document for step in example.evidence] == [1, 0]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": "2hop__1_2"}, "easy"),
        ({"id": "3hop2__1_2_3"}, "medium"),
        ({"id": "4hop1__1"}, "hard"),
        ({"id": "2hop__1_2", "answerable": None}, "hard"),
        ({"id": "5hop__1"}, "medium"),
        ({"id": None}, "medium"),
    ],
)
def test_tier(row, expected):
    assert tier(row) == expected


@pytest.mark.parametrize("columns", [False, True])
def test_files_and_hub_give_the_same_examples(shared, tmp_path, monkeypatch, columns):
    def hub_row(item: dict[str, Any]) -> dict[str, Any]:
        """The hub serves the published records; older versions of `datasets` turn lists of records into columns."""
        if not columns:
            return item
        records = {name: item[name] for name in ("paragraphs", "question_decomposition")}
        flat = {
            name: pairs_to_columns([list(record.values()) for record in value], *value[0])
            for name, value in records.items()
        }
        return {**item, **flat}

    rows = {"train": real_rows(shared, "musique", "train"), "validation": real_rows(shared, "musique", "test")}
    parts = {split: [hub_row(row) for row in items] for split, items in rows.items()}
    hub = MuSiQue(hub_id=hub_folder(tmp_path, parts, monkeypatch))
    local = MuSiQue(files=real_files(shared, "musique"))
    for split in ("train", "validation", "test"):
        assert hub.load(split) == local.load(split)


def test_unanswerable_items_are_skipped_and_counted(tmp_path, caplog):
    items = [musique_item(id="2hop__1_2", answerable=n % 2 == 0) for n in range(2)]
    items += [musique_item(id="2hop__3_4", answerable=...)]
    examples = load(write_items(tmp_path / "test", items))
    assert [example.id for example in examples] == ["2hop__1_2", "2hop__3_4"]
    assert "1 x unanswerable item that was skipped" in caplog.text


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Decade >> performer", "the performer of Decade"),
        ("#1 >> spouse", "the spouse of #1"),
        ("Norris Mountain (#1 ) >> part of", "what Norris Mountain (#1) is part of"),
        ("Lewis >> named after", "what Lewis is named after"),
        ("who was in charge of #2 ?", "Who was in charge of #2?"),
        ("who scored #1 's first goal last season", "Who scored #1's first goal last season?"),
        ("Where did it end.", "Where did it end?"),
    ],
)
def test_sub_questions_in_words(question, expected):
    assert phrase(question) == expected


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("in which city is the present base of #1", "Opened in 1900 was a present base in Delft."),
        ("where is the one that #1 owns", "What Acme has is in Delft."),
        ("is the old one it", "It is the one, Delft is, and it is so."),
    ],
)
def test_of_several_sentences_the_one_nearest_to_the_question_is_taken(tmp_path, question, expected):
    item = musique_item()
    item["paragraphs"][0]["paragraph_text"] = (
        "It is the one, Delft is, and it is so. Opened in 1900 was a present base in Delft. What Acme has is in Delft."
    )
    item["question_decomposition"][1]["question"] = question
    (example,) = load(write_items(tmp_path / "test", [item]))
    assert example.evidence[1].statement == expected


def test_an_endless_sentence_is_cut_to_the_words_around_the_answer(tmp_path):
    item = musique_item()
    item["paragraphs"][0]["paragraph_text"] = "left " * 200 + "Delft " + "right " * 200
    (example,) = load(write_items(tmp_path / "test", [item]))
    statement = example.evidence[1].statement
    assert set(statement.split()) == {"left", "Delft", "right"}
    assert 350 < len(statement) < 420


def test_the_whole_paragraph_stands_in_for_an_answer_that_it_paraphrases(tmp_path):
    item = musique_item()
    item["question_decomposition"][0]["answer"] = "The Acme Company"
    (example,) = load(write_items(tmp_path / "test", [item]))
    assert example.evidence[0].statement == "The Gizmo is a tool. Dr. Acme made it."


def test_a_lost_paragraph_is_searched_for_and_otherwise_there_is_no_chain(tmp_path, caplog):
    item = musique_item()
    item["question_decomposition"][0]["paragraph_support_idx"] = None
    (example,) = load(write_items(tmp_path / "test", [item]))
    assert [step.document for step in example.evidence] == [0, 0]
    item["question_decomposition"][0]["answer"] = "Nobody"
    (example,) = load(write_items(tmp_path / "test", [item]))
    assert example.evidence == ()
    assert caplog.text.count("1 x sub-question whose paragraph is not there") == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ...}, "field 'id': is missing"),
        ({"question": ""}, "field 'question': is empty"),
        ({"answer": ...}, "field 'answer': is missing"),
        ({"answer_aliases": ...}, "field 'answer_aliases': is missing"),
        ({"answer_aliases": ["a", 3]}, r"field 'answer_aliases\[1\]': expected text, got 3"),
        ({"answerable": "yes"}, "field 'answerable': expected true or false, got 'yes'"),
        ({"paragraphs": ...}, "field 'paragraphs': is missing"),
        ({"paragraphs": []}, "field 'paragraphs': holds no documents"),
        ({"paragraphs": [{"idx": 0, "title": "A"}]}, r"field 'paragraphs\[0\].paragraph_text': is missing"),
        (
            {"paragraphs": [{"idx": "0", "title": "A", "paragraph_text": "a"}]},
            r"field 'paragraphs\[0\].idx': expected a whole number, got '0'",
        ),
        (
            {"paragraphs": [{"idx": 0, "title": "A", "paragraph_text": "a"}] * 2},
            "field 'paragraphs': two paragraphs have the same 'idx'",
        ),
        ({"question_decomposition": ...}, "field 'question_decomposition': is missing"),
        (
            {"question_decomposition": [{"question": "q", "answer": None, "paragraph_support_idx": 0}]},
            r"field 'question_decomposition\[0\].answer': expected text, got null",
        ),
    ],
)
def test_malformed_items_are_named(tmp_path, changes, message):
    path = write_items(tmp_path / "test.jsonl", [musique_item(id="2hop__0"), musique_item(**changes)], lines=True)
    with pytest.raises(InputError, match=r"test\.jsonl, row 2, " + message):
        load(path)


def test_a_torn_line_is_named(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(musique_item()) + "\n" + json.dumps(musique_item())[:50])
    with pytest.raises(InputError, match=r"test\.jsonl, row 2: is not JSON"):
        load(path)
