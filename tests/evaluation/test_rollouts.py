from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.protocol import ChatRequest, ChatResponse
from introspect.chat.usage import Usage
from introspect.core.errors import InputError
from introspect.evaluation.rollouts import Rollout, load_rollouts, save_rollouts
from tests.evaluation.metrics.factory import rollout

EXAMPLE = MultiHopExample(
    id="e1",
    benchmark="musique",
    question="Where?",
    answer="Paris",
    documents=(),
    evidence=(),
    hops=3,
    tier="medium",
    aliases=("City of Light",),
)
RESPONSE = ChatResponse("r1", "Rome <answer>Rome</answer>?", "<answer>Paris</answer>", "stop", Usage(100, 20, 15))


def test_a_rollout_joins_example_request_and_response():
    joined = Rollout.of(EXAMPLE, ChatRequest("r1", (), sample=2, example=EXAMPLE), RESPONSE)
    assert joined == Rollout(
        example_id="e1",
        rollout_id=2,
        benchmark="musique",
        question="Where?",
        answer="Paris",
        aliases=("City of Light",),
        hops=3,
        tier="medium",
        reasoning="Rome <answer>Rome</answer>?",
        content="<answer>Paris</answer>",
        finish_reason="stop",
        prompt_tokens=100,
        reasoning_tokens=15,
        completion_tokens=20,
    )
    assert joined.references == ("Paris", "City of Light")


def test_a_rollout_refuses_what_does_not_belong_together():
    with pytest.raises(ValueError, match="'r1' joined with request 'r2'"):
        Rollout.of(EXAMPLE, ChatRequest("r2", ()), RESPONSE)
    other = dataclasses.replace(EXAMPLE, id="e2")
    with pytest.raises(ValueError, match="'e2' joined with example 'e1'"):
        Rollout.of(EXAMPLE, ChatRequest("r1", (), example=other), RESPONSE)


def test_an_answer_is_read_from_the_content_alone():
    assert rollout(reasoning="<answer>Paris</answer>", content="").predicted_answer == ""
    assert rollout(reasoning="<answer>Rome</answer>", content="<answer>Paris</answer>").predicted_answer == "Paris"


@pytest.mark.parametrize(
    ("reason", "finished"),
    [("stop", True), ("tool_calls", True), ("function_call", True), ("length", False), ("abort", False), ("", False)],
)
def test_only_a_turn_that_ended_by_itself_is_finished(reason, finished):
    assert rollout(finish_reason=reason).finished is finished


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(texts=st.lists(st.tuples(TEXTS, TEXTS, st.lists(TEXTS, max_size=2)), min_size=1, max_size=8))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rollouts_survive_the_file(tmp_path, texts):
    rollouts = [
        rollout("e", number, reasoning=reasoning, content=content, aliases=tuple(aliases))
        for number, (reasoning, content, aliases) in enumerate(texts)
    ]
    save_rollouts(rollouts, tmp_path / "deep" / "rollouts.parquet")
    assert load_rollouts(tmp_path / "deep" / "rollouts.parquet") == rollouts


def test_the_file_has_the_documented_columns(tmp_path):
    save_rollouts([rollout(predicted="Rome", aliases=("City of Light",))], tmp_path / "rollouts.parquet")
    table = pq.read_table(tmp_path / "rollouts.parquet")
    assert {name: str(table.schema.field(name).type) for name in table.column_names} == {
        "example_id": "string",
        "rollout_id": "int64",
        "benchmark": "string",
        "question": "string",
        "answer": "string",
        "answer_aliases": "list<element: string not null>",
        "hops": "int64",
        "tier": "string",
        "reasoning_trace": "string",
        "content": "string",
        "predicted_answer": "string",
        "finish_reason": "string",
        "prompt_tokens": "int64",
        "reasoning_tokens": "int64",
        "completion_tokens": "int64",
    }
    assert table.to_pylist()[0]["predicted_answer"] == "Rome"


def test_a_file_that_another_library_rewrote_is_read(tmp_path):
    rollouts = [rollout("a"), rollout("b", aliases=("x", "y"))]
    save_rollouts(rollouts, tmp_path / "rollouts.parquet")
    table = pq.read_table(tmp_path / "rollouts.parquet").drop_columns(["predicted_answer"])
    wide = [_widened(field) for field in table.schema]
    table = table.cast(pa.schema(wide)).append_column("verdict", pa.array([True, None]))
    pq.write_table(table, tmp_path / "rewritten.parquet")
    assert load_rollouts(tmp_path / "rewritten.parquet") == rollouts


def _widened(field: pa.Field) -> pa.Field:
    if pa.types.is_list(field.type):
        return pa.field(field.name, pa.large_list(pa.large_string()))
    return pa.field(field.name, pa.large_string() if pa.types.is_string(field.type) else pa.int32())


def _edited(path: Path, column: str, values: Any) -> Path:
    """Two saved rollouts with one column replaced, or removed for None."""
    save_rollouts([rollout("a"), rollout("b")], path)
    table = pq.read_table(path)
    index = table.column_names.index(column)
    table = table.remove_column(index)
    if values is not None:
        table = table.add_column(index, column, pa.array(values))
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("finish_reason", None, "column 'finish_reason' is missing"),
        ("answer", [1, 2], "column 'answer' holds int64, expected strings"),
        ("hops", ["2", "2"], "column 'hops' holds string, expected integers"),
        ("completion_tokens", [9.5, 9.0], "column 'completion_tokens' holds double, expected integers"),
        ("answer_aliases", ["x", "y"], "column 'answer_aliases' holds string, expected lists of strings"),
        ("answer_aliases", [[1], [2]], "column 'answer_aliases' holds list<.*int64>, expected lists of strings"),
        ("answer_aliases", [["x"], ["y", None]], "row 1: column 'answer_aliases' has an empty element"),
        ("question", ["Where?", None], "row 1: column 'question' is empty, expected strings"),
        ("rollout_id", [0, -1], "row 1: column 'rollout_id' is -1, expected 0 or more"),
        ("reasoning_tokens", [11, 0], "row 0: column 'reasoning_tokens' is 11, more than completion_tokens"),
        ("tier", ["easy", "Easy"], "row 1: column 'tier' is 'Easy', expected one of easy, medium, hard"),
        ("example_id", ["a", "a"], "row 1: example_id 'a', rollout_id 0 is there twice"),
    ],
)
def test_a_malformed_file_is_named_with_its_fault(tmp_path, column, values, message):
    path = _edited(tmp_path / "rollouts.parquet", column, values)
    with pytest.raises(InputError, match=rf"rollouts\.parquet: {message}") as error:
        load_rollouts(path)
    assert "\n" not in str(error.value)


def test_a_file_that_holds_no_rollouts_is_an_error(tmp_path):
    path = tmp_path / "rollouts.parquet"
    save_rollouts([rollout()], path)
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(InputError, match="holds no rollouts"):
        load_rollouts(path)


def test_saving_refuses_nothing_and_duplicates_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "rollouts.parquet"
    save_rollouts([rollout("old")], path)
    with pytest.raises(InputError, match="no rollouts to save"):
        save_rollouts([], path)
    with pytest.raises(InputError, match="example_id 'a', rollout_id 0 is there twice"):
        save_rollouts([rollout("a"), rollout("a")], path)
    assert [saved.example_id for saved in load_rollouts(path)] == ["old"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rollouts.parquet"]
