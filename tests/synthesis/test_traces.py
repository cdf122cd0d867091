from __future__ import annotations

from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from introspect.chat.protocol import Message
from introspect.core.errors import InputError
from introspect.synthesis.traces import Draft, Trace, load_traces, save_traces

TRACES = (
    Trace("a", 0, 0, "mbt_r", (Message("system", "S"), Message("user", "Who — “é”?")), "<think>\nX\n</think>\n\nY"),
    Trace("a", 0, 1, "mbt_r", (Message("user", "Who?"),), "Z"),
    Trace("a", 1, 0, "mbt_r", (Message("user", "Who?"),), "Z", Draft("Hm — “é”", "", finished=False)),
)


def write(path, **changes):
    row = {**asdict(TRACES[1]), "draft": None, "messages": '[{"role": "user", "content": "Who?"}]', **changes}
    row = {name: value for name, value in row.items() if value != "absent"}
    pq.write_table(pa.Table.from_pylist([row]), path)
    return path


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "traces.parquet"

    save_traces(TRACES, path)

    assert load_traces(path) == TRACES
    assert [file.name for file in path.parent.iterdir()] == ["traces.parquet"]


def test_no_traces_are_a_file_too(tmp_path):
    save_traces([], tmp_path / "traces.parquet")

    assert load_traces(tmp_path / "traces.parquet") == ()


def test_columns_of_others_are_left_alone(tmp_path):
    assert load_traces(write(tmp_path / "t.parquet", judged=True)) == (TRACES[1],)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"target": "absent"}, "column 'target' is missing"),
        ({"target": None}, "row 0: column 'target' is empty, expected strings"),
        ({"target": ""}, "row 0: column 'target' is empty, expected strings"),
        ({"rollout_id": "x"}, "column 'rollout_id' holds string, expected integers"),
        ({"messages": "[]"}, "row 0: column 'messages' has no message"),
        ({"messages": "{"}, "row 0: column 'messages' is no JSON list"),
        ({"messages": '[{"role": "user"}]'}, "row 0: column 'messages' is no JSON list"),
        ({"messages": '[{"role": "robot", "content": "x"}]'}, "row 0: column 'messages' is no JSON list"),
        ({"messages": '[{"role": "user", "content": 3}]'}, "row 0: column 'messages' is no JSON list"),
    ],
)
def test_malformed_row_is_named(tmp_path, changes, complaint):
    path = write(tmp_path / "t.parquet", **changes)
    with pytest.raises(InputError, match=rf"^{path}: {complaint}"):
        load_traces(path)


def test_file_without_drafts_is_read(tmp_path):
    assert load_traces(write(tmp_path / "t.parquet", draft="absent")) == (TRACES[1],)


@pytest.mark.parametrize(
    "draft", ["{", "[]", '{"reasoning": "x"}', '{"reasoning": 1, "content": "", "finished": true}']
)
def test_malformed_draft_is_named(tmp_path, draft):
    path = write(tmp_path / "t.parquet", draft=draft)
    with pytest.raises(InputError, match=rf"^{path}: row 0: column 'draft' is no JSON object"):
        load_traces(path)


def test_trace_that_is_there_twice_is_named(tmp_path):
    complaint = r"row 1: example_id 'a', rollout_id 0, trace_id 0 is there twice"
    with pytest.raises(InputError, match=complaint):
        save_traces([TRACES[0], TRACES[0]], tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())
    table = pq.read_table(write(tmp_path / "t.parquet"))
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=complaint.replace("trace_id 0", "trace_id 1")):
        load_traces(tmp_path / "t.parquet")


def test_the_file_has_a_column_per_field(tmp_path):
    save_traces(TRACES, tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    assert [str(field) for field in table.schema] == [
        "pyarrow.Field<example_id: string not null>",
        "pyarrow.Field<rollout_id: int64 not null>",
        "pyarrow.Field<trace_id: int64 not null>",
        "pyarrow.Field<recipe: string not null>",
        "pyarrow.Field<messages: string not null>",
        "pyarrow.Field<target: string not null>",
        "pyarrow.Field<draft: string>",
    ]
    assert table["messages"][0].as_py() == (
        '[{"role": "system", "content": "S"}, {"role": "user", "content": "Who — “é”?"}]'
    )
    assert table["draft"].to_pylist() == [
        None,
        None,
        '{"reasoning": "Hm — “é”", "content": "", "finished": false}',
    ]


def test_file_that_is_missing_or_no_parquet(tmp_path):
    with pytest.raises(InputError, match="no such file of traces"):
        load_traces(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_text("no")
    with pytest.raises(InputError, match="not a readable Parquet file of traces"):
        load_traces(tmp_path / "t.parquet")
