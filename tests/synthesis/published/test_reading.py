from __future__ import annotations

import json

import pytest

from introspect.chat.protocol import Message
from introspect.core.errors import InputError
from introspect.synthesis.published import PublishedSet, example_id_of, messages_of
from tests.benchmarks.samples import hub_folder
from tests.synthesis.published.made import row, write

COLUMNS = ("sample_id", "prompt", "metadata")


def as_file(tmp_path, monkeypatch):
    return {"source": write(tmp_path / "t.parquet", row(), row(sample_id=2))}


def as_lines(tmp_path, monkeypatch):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in (row(), row(sample_id=2))))
    return {"source": path}


def as_saved(tmp_path, monkeypatch):
    import datasets

    datasets.Dataset.from_list([row(), row(sample_id=2)]).save_to_disk(tmp_path / "saved")
    return {"source": tmp_path / "saved"}


def as_saved_parts(tmp_path, monkeypatch):
    import datasets

    part = datasets.Dataset.from_list([row(), row(sample_id=2)])
    datasets.DatasetDict({"train": part, "validation": part.select([0])}).save_to_disk(tmp_path / "saved")
    return {"source": tmp_path / "saved"}


def as_hub(tmp_path, monkeypatch):
    parts = {"train": [row(), row(sample_id=2)], "validation": [row()]}
    return {"source": hub_folder(tmp_path, parts, monkeypatch, "Qwen3-0.6B"), "config": "Qwen3-0.6B"}


@pytest.mark.parametrize("make", [as_file, as_lines, as_saved, as_saved_parts, as_hub])
def test_every_kind_of_source_gives_the_same_rows(tmp_path, monkeypatch, make):
    table = PublishedSet(**make(tmp_path, monkeypatch))

    assert set(table.columns) == row().keys()
    first, second = table.rows(COLUMNS)
    assert (first.number, first.value("sample_id"), second.value("sample_id")) == (1, 1, 2)
    assert messages_of(first, "prompt") == (Message("user", "Where?"),)
    assert example_id_of(first) == "5a7a06935542990198eaf050"


def test_a_part_is_chosen(tmp_path, monkeypatch):
    assert len(list(PublishedSet(**as_saved_parts(tmp_path, monkeypatch), split="validation").rows(COLUMNS))) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"metadata": {"_id": "m1"}}, "m1"),
        ({"metadata": {"level": "hard"}}, "1"),
        ({"metadata": "text"}, "1"),
        ({"metadata": ...}, "1"),
        ({"metadata": ..., "sample_id": "s7"}, "s7"),
    ],
)
def test_the_id_of_a_question(tmp_path, changes, expected):
    (item,) = PublishedSet(write(tmp_path / "t.parquet", row(**changes))).rows(("sample_id",), ("metadata",))

    assert example_id_of(item) == expected


def test_a_prompt_may_be_a_text_or_a_conversation(tmp_path):
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"a": "Where?", "b": turns}))
    (item,) = PublishedSet(path).rows(("a", "b"))

    assert messages_of(item, "a") == (Message("user", "Where?"),)
    assert messages_of(item, "b") == (Message("system", "S"), Message("user", "U"))


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("", "field 'p': is empty"),
        (7, "field 'p': expected a list, got 7"),
        ([], "field 'p': expected a conversation that ends with the user's turn"),
        ([{"role": "assistant", "content": "x"}], "field 'p': expected a conversation that ends"),
        ([{"role": "robot", "content": "x"}], r"field 'p\[0\]': expected a turn with the role"),
        ([{"role": "user", "content": None}], r"field 'p\[0\].content': expected text, got null"),
    ],
)
def test_a_prompt_that_is_none_is_named(tmp_path, prompt, complaint):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"p": prompt}))
    (item,) = PublishedSet(path).rows(("p",))
    with pytest.raises(InputError, match=rf"^{path}, row 1, {complaint}"):
        messages_of(item, "p")


def test_a_column_that_is_missing_is_named(tmp_path):
    table = PublishedSet(write(tmp_path / "t.parquet", row()))
    with pytest.raises(InputError, match=r"t.parquet: column 'solution' is missing; there are sample_id, metadata, q"):
        next(table.rows(("question", "solution")))


def test_sources_that_are_none_are_named(tmp_path, monkeypatch):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"broken.parquet: not a readable Parquet file"):
        PublishedSet(tmp_path / "broken.parquet")
    with pytest.raises(InputError, match=r"nowhere: no such file or folder$"):
        PublishedSet(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"^cannot load 'test' of .*; or give a local file or folder$"):
        PublishedSet(**as_hub(tmp_path, monkeypatch), split="test")
    with pytest.raises(InputError, match=r"^cannot load 'train' of 'nobody/nothing' \(config 'c'\): "):
        PublishedSet("nobody/nothing", config="c")


def test_of_nested_metadata_only_the_id_is_read(tmp_path):
    metadata = {"id": "m1", "context": {"title": ["x"] * 3}}
    (item,) = PublishedSet(write(tmp_path / "t.parquet", row(metadata=metadata))).rows(("sample_id",), ("metadata",))

    assert item.values == {"sample_id": 1, "metadata": {"id": "m1"}}
