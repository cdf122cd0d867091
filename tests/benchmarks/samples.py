"""Small benchmark items to bend in tests, real ones with their golden tiers, and folders that look like the hub's."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from introspect.benchmarks.examples import MultiHopExample

REAL = {
    "hotpotqa": {
        "train": "hotpotqa/hotpot_train_v1.1.sample100.json",
        "test": "hotpotqa/hotpot_dev_distractor_v1.sample120.json",
    },
    "musique": {
        "train": "musique/musique_ans_v1.0_train.sample100.jsonl",
        "test": "musique/musique_ans_v1.0_dev.sample120.jsonl",
    },
    "2wikimultihopqa": {
        "train": "2wikimultihopqa/train.sample200.json",
        "test": "2wikimultihopqa/dev.sample100.json",
    },
}


def real_files(shared: Path, benchmark: str) -> dict[str, Path]:
    """The files of real items, by part."""
    return {part: shared / "data" / name for part, name in REAL[benchmark].items()}


def real_rows(shared: Path, benchmark: str, part: str) -> list[dict[str, Any]]:
    """The real items as they stand in the file."""
    text = real_files(shared, benchmark)[part].read_text(encoding="utf-8")
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


def golden_rows(shared: Path, benchmark: str) -> list[dict[str, Any]]:
    """The rows of one benchmark in `difficulty.json`: real and synthetic, with the reference's tier."""
    golden = json.loads((shared / "golden" / "difficulty.json").read_text(encoding="utf-8"))
    return [case for case in golden if case["benchmark"] == benchmark]


def golden_tiers(shared: Path, benchmark: str) -> list[str]:
    """The tiers that the reference wrote for the real training items, in their order."""
    with (shared / "golden" / "sample_difficulty.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == benchmark]
    return [row["tier"] for row in sorted(rows, key=lambda row: int(row["sample_id"]))]


def golden_prompt(shared: Path, kind: str) -> list[dict[str, Any]]:
    """The cases of `chat_render.json` of one kind."""
    golden = json.loads((shared / "golden" / "chat_render.json").read_text(encoding="utf-8"))
    return [case for case in golden if case["kind"] == kind]


def write_items(path: Path, items: Iterable[object], lines: bool = False) -> Path:
    """A JSON array or, with `lines`, a JSONL file."""
    items = list(items)
    text = "".join(json.dumps(item) + "\n" for item in items) if lines else json.dumps(items, indent=1)
    path.write_text(text, encoding="utf-8")
    return path


def hub_folder(
    folder: Path, parts: Mapping[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, config: str | None = None
) -> str:
    """A data set repository as `datasets` reads it from the hub: Parquet files, and a card that names its config."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    repository = folder / "repository"
    repository.mkdir()
    card = ["---", "configs:", f"- config_name: {config or 'default'}", "  data_files:"]
    for split, rows in parts.items():
        datasets.Dataset.from_list(rows).to_parquet(repository / f"{split}-00000-of-00001.parquet")
        card += [f"  - split: {split}", f"    path: {split}-*.parquet"]
    (repository / "README.md").write_text("\n".join([*card, "---", ""]))
    return str(repository)


def pairs_to_columns(pairs: list[list[Any]], *names: str) -> dict[str, list[Any]]:
    """`[[a, 1], [b, 2]]` -> `{"x": [a, b], "y": [1, 2]}`, the layout of the hub."""
    return {name: [pair[i] for pair in pairs] for i, name in enumerate(names)}


def hub_row(item: dict[str, Any]) -> dict[str, Any]:
    """An item of HotpotQA or 2WikiMultiHopQA in the columns of the hub."""
    columns = {"supporting_facts": ("title", "sent_id"), "context": ("title", "sentences")}
    kept = {key: value for key, value in item.items() if key != "_id"}
    return {"id": item["_id"], **kept, **{key: pairs_to_columns(item[key], *names) for key, names in columns.items()}}


def check_example(example: MultiHopExample) -> None:
    """What must hold for every example of every benchmark."""
    assert example.id
    assert example.question.strip()
    assert example.answer.strip()
    assert example.documents
    assert example.hops >= 1
    assert example.tier in ("easy", "medium", "hard")
    assert example.evidence, "every real item has a chain of evidence"
    for k, step in enumerate(example.evidence, start=1):
        text = example.documents[step.document].text
        assert step.statement
        assert step.statement in text
        assert f"#{k}" not in (step.goal or ""), "a step builds on earlier steps only"


def hotpot_item(**changes: Any) -> dict[str, Any]:
    """A bridge question in HotpotQA's published layout; a change to `...` removes the key."""
    item = {
        "_id": "h1",
        "question": "In which city is the maker of the Gizmo based?",
        "answer": "Delft",
        "type": "bridge",
        "level": "hard",
        "context": [
            ["Acme (company)", ["Acme makes things.", " It is based in Delft."]],
            ["Decoy", ["Decoy is a duck."]],
            ["Gizmo", ["The Gizmo is a tool.", " It is made by Acme."]],
        ],
        "supporting_facts": [["Acme (company)", 1], ["Gizmo", 1]],
    }
    return _changed(item, changes)


def musique_item(**changes: Any) -> dict[str, Any]:
    """A two-hop item in MuSiQue's published layout; a change to `...` removes the key."""
    item = {
        "id": "2hop__1_2",
        "question": "In which city is the maker of the Gizmo based?",
        "answer": "Delft",
        "answer_aliases": ["City of Delft"],
        "answerable": True,
        "paragraphs": [
            {"idx": 0, "title": "Acme", "paragraph_text": "Acme likes Delft. Acme is based in Delft now."},
            {"idx": 1, "title": "Gizmo", "paragraph_text": "The Gizmo is a tool. Dr. Acme made it."},
        ],
        "question_decomposition": [
            {"id": 1, "question": "Gizmo >> manufacturer", "answer": "Acme", "paragraph_support_idx": 1},
            {"id": 2, "question": "where is #1 based", "answer": "Delft", "paragraph_support_idx": 0},
        ],
    }
    return _changed(item, changes)


def twowiki_item(**changes: Any) -> dict[str, Any]:
    """A compositional item in 2WikiMultiHopQA's published layout; a change to `...` removes the key."""
    item = hotpot_item(
        _id="w1",
        type="compositional",
        level=...,
        evidences=[["Gizmo", "manufacturer", "Acme"], ["Acme", "headquarters location", "Delft"]],
        supporting_facts=[["Gizmo", 1], ["Acme (company)", 1]],
    )
    return _changed(item, changes)


def _changed(item: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**item, **changes}.items() if value is not ...}
