from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.benchmarks import rows
from introspect.benchmarks.rows import Row, read_rows
from introspect.core.errors import InputError
from tests.benchmarks.samples import write_items

ITEMS = st.lists(
    st.dictionaries(st.text(max_size=5), st.text(max_size=9) | st.integers() | st.lists(st.text(max_size=3))),
    min_size=1,
    max_size=6,
)


def read(path: Path) -> list[object]:
    return [row.values for row in read_rows(path, Counter())]


def row(**values: object) -> Row:
    return Row(values, "items.json", 7, Counter())


@given(ITEMS, st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_reads_back_what_was_written_however_it_is_chunked(items, chunk, indent, lines):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(rows, "_CHUNK", chunk)
        path = Path(folder) / "items"
        if lines:
            path.write_text("\n".join(json.dumps(item, ensure_ascii=False) for item in items), encoding="utf-8")
        else:
            path.write_text(json.dumps(items, indent=indent, ensure_ascii=False), encoding="utf-8")
        assert read(path) == items


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no items"),
        (" \n\n", "holds no items"),
        ("[]", "holds no items"),
        ("[ ]\n", "holds no items"),
        ("[", "row 1: is not JSON"),
        ("hello", "row 1: is not JSON"),
        ('{"a": 1}\n{"a": \n', "row 2: is not JSON"),
        ('{"a": 1}\n\n[2]\n', r"row 3: expected a JSON object, got \[2\]"),
        ('{\n "data": [{"a": 1}]\n}\n', "row 1: is not JSON"),
        ('[{"a": 1}, 5]', "row 2: expected a JSON object, got 5"),
        ('[{"a": 1}, null]', "row 2: expected a JSON object, got null"),
        ('[{"a": 1} {"a": 2}]', "row 2: is not JSON .*comma"),
        ('[{"a": 1},, {"a": 2}]', "row 2: is not JSON"),
        ('[, {"a": 1}]', "row 1: is not JSON .*comma"),
        ('[{"a": 1},]', "row 2: is not JSON"),
        ('[{"a": 1}, {"a": "cut of', "row 2: is not JSON"),
        ('[{"a": 1}] and more', "something follows the JSON array: 'and more'"),
        ("[" * 100_000, "row 1: is not JSON"),
        ('[{"a": ' + "9" * 10_000 + "}]", "row 1: is not JSON"),
    ],
)
def test_broken_content_is_named(tmp_path, content, message):
    path = tmp_path / "items.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_folder_and_binary_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        read(tmp_path / "none.json")
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "binary").write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(InputError, match="is not UTF-8"):
        read(tmp_path / "binary")


def test_byte_order_mark_and_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "items.json").write_bytes(b'\xef\xbb\xbf[{"a": 1}]')
    assert read(Path("~/items.json")) == [{"a": 1}]


@pytest.mark.parametrize("lines", [True, False])
def test_reads_no_further_than_asked(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(rows, "_CHUNK", 64)
    path = write_items(tmp_path / "items", [{"number": n} for n in range(2000)], lines)
    path.write_bytes(path.read_bytes()[:-10] + b"\xff")
    stream = read_rows(path, Counter())
    assert [next(stream).values["number"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="is not UTF-8"):
        list(stream)


@pytest.mark.parametrize(
    "layout",
    [
        [["A", ["a"]], ["B", []]],
        {"title": ["A", "B"], "sentences": [["a"], []]},
        {"title": ["A", "B"], "content": [["a"], []]},
        [{"title": "A", "sentences": ["a"]}, {"title": "B", "content": []}],
    ],
)
def test_table_reads_every_published_layout(layout):
    assert row(context=layout).table("context", "title", "sentences|content") == [("A", ["a"]), ("B", [])]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (None, "'context': expected a list, got null"),
        ("[]", "'context': expected a list, got '\\[\\]'"),
        ([["A"]], r"'context\[0\]': expected \[title, sentences\], got \['A'\]"),
        ([["A", []], 3], r"'context\[1\]': expected \[title, sentences\], got 3"),
        ([{"title": "A"}], r"'context\[0\].sentences': is missing"),
        ({"title": ["A"]}, r"'context.sentences': is missing"),
        ({"title": "A", "sentences": []}, r"'context.title': expected a list, got 'A'"),
        ({"title": ["A"], "sentences": []}, "'context': its columns differ in length: 1 of 'title', 0 of 'sentences'"),
    ],
)
def test_table_names_what_is_wrong(layout, message):
    with pytest.raises(InputError, match=r"items\.json, row 7, field " + message):
        row(context=layout).table("context", "title", "sentences|content")


def test_missing_field_names_its_other_spelling():
    with pytest.raises(InputError, match=r"row 7, field '_id': is missing \(so is 'id'\)"):
        row().text("_id", "id")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "expected text, got null"),
        (3, "expected text, got 3"),
        (" ", "is empty"),
        ("x\ud800", "is not valid Unicode"),
        (list(range(99)), r"expected text, got \[0, 1, .*\.\.\."),
    ],
)
def test_text_must_be_text(value, message):
    with pytest.raises(InputError, match=f"field 'id': {message}"):
        row(id=value).text("_id", "id")


def test_a_truth_value_is_no_number():
    assert row().cell(3, int, "n") == 3
    with pytest.raises(InputError, match="field 'n': expected a whole number, got True"):
        row().cell(True, int, "n")
