from __future__ import annotations

import json
import os
from contextlib import suppress

import pytest

from introspect.core.files import replacing, write_csv, write_json, write_text


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a/metrics.json"
    write_text(path, "old")
    with suppress(NotADirectoryError), replacing(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old"
        partial.joinpath("no folder").touch()
    with pytest.raises(TypeError):
        write_json(path, {"number": 1, "object": object()})
    assert path.read_text() == "old"
    assert [*path.parent.iterdir()] == [path]


def test_two_writers_of_a_file_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "table.txt"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    with replacing(path, locked=True) as first:
        assert first == tmp_path / "table.txt.partial"
        first.write_text("alone")
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_is_readable_for_whom_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "shared", "")
    finally:
        os.umask(before)
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o640


def test_text_json_and_tables_as_bytes(tmp_path):
    write_text(tmp_path / "text", "é\r\nb\n")
    write_json(tmp_path / "json", {"é": [1, float("nan")]}, indent=None)
    write_csv(tmp_path / "csv", ["a", "b"], [[1, "x,y"], [2.5, ""]])
    assert (tmp_path / "text").read_bytes() == "é\r\nb\n".encode()
    assert (tmp_path / "json").read_text() == '{"é": [1, NaN]}\n'
    assert (tmp_path / "csv").read_bytes() == b'a,b\n1,"x,y"\n2.5,\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "json", float("inf"), allow_nan=False)
    assert json.loads((tmp_path / "json").read_text().replace("NaN", "0")) == {"é": [1, 0]}
