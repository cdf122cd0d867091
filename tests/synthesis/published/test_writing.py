"""What is exported has the published columns, loads as a data set, and comes back as it was."""

from __future__ import annotations

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from introspect.core.errors import InputError
from introspect.evaluation.generation import generate_rollouts
from introspect.oracle.teacher import Oracle
from introspect.synthesis.published import export_rollouts, export_traces
from introspect.synthesis.recipes import MBTR, MBTS, DirectR, DistillR, Published, SelfDistill, TeacherDistill
from introspect.synthesis.recipes.base import Models
from tests.synthesis.recipes.scripted import EXAMPLES, Scripted, endless, right, wrong

QUESTION = ["sample_id", "metadata", "question", "answer"]
ROLLOUT = ["rollout_id", "prompt", "response", "valid", "reasoning_trace", "predicted_answer", "evaluation"]


def export(recipe, folder, student=right, examples=EXAMPLES):
    traces = recipe.synthesize(examples, Models(Scripted(student), Oracle())).traces
    export_traces(traces, examples, folder, kind=recipe.kind, facts={"recipe": recipe.name, **recipe.settings})
    return traces


def file_of(folder, split="train"):
    return folder / "data" / f"{split}-00000-of-00001.parquet"


def read(folder, **settings):
    return Published(source=file_of(folder), **settings).synthesize([], Models(Scripted(right), Oracle()))


@pytest.mark.parametrize(
    ("recipe", "columns"),
    [
        (MBTS(traces=1), [*QUESTION, "prompt", "synthesized_trace"]),
        (MBTR(rollouts=2, traces=2), [*QUESTION, *ROLLOUT, "trace_id", "refined_trace"]),
        (DistillR(), [*QUESTION, *ROLLOUT, "trace_id", "refined_trace"]),
        (DirectR(), [*QUESTION, *ROLLOUT, "trace_id", "refined_trace"]),
        (SelfDistill(), [*QUESTION, *ROLLOUT]),
        (TeacherDistill(rollouts=2), [*QUESTION, *ROLLOUT]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_recipe_comes_back_as_it_was(tmp_path, recipe, columns):
    traces = export(recipe, tmp_path)

    assert pq.read_schema(file_of(tmp_path)).names == columns
    assert [path.name for path in file_of(tmp_path).parent.iterdir()] == [file_of(tmp_path).name]
    back = read(tmp_path)
    assert back.rejections == {}
    assert back.traces == tuple(replace(trace, recipe="published") for trace in traces)


def test_the_cells_are_those_of_the_published_sets(tmp_path):
    export(MBTR(), tmp_path, student=wrong)

    first = pq.read_table(file_of(tmp_path)).to_pylist()[0]
    example = EXAMPLES[first["sample_id"] - 1]
    assert first["metadata"] == {"id": example.id, "benchmark": "hopworld", "hops": example.hops, "tier": example.tier}
    assert (first["question"], first["answer"]) == (example.question, example.answer)
    assert (first["rollout_id"], first["trace_id"]) == (1, 1)
    assert [turn["role"] for turn in first["prompt"]] == ["user"]
    assert first["response"] == "<think>\nHmm.\n</think>\n\n<answer>nobody</answer>"
    assert (first["reasoning_trace"], first["predicted_answer"]) == ("Hmm.", "nobody")
    assert (first["valid"], first["evaluation"]) == (True, False)
    assert "<" not in first["refined_trace"]


def test_unfinished_drafts_are_not_valid(tmp_path):
    export(MBTR(unfinished_drafts=True), tmp_path, student=endless)

    assert {row["valid"] for row in pq.read_table(file_of(tmp_path)).to_pylist()} == {False}
    assert read(tmp_path).rejections == {"invalid": 6}


def test_the_folder_is_a_data_set_with_a_card(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    export(SelfDistill(accept="f1>=0.5"), tmp_path / "out")

    table = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert (table.num_rows, table.column_names) == (6, [*QUESTION, *ROLLOUT])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- recipe: self_distill" in card
    assert "- accept: f1>=0.5" in card
    traces = Published(source=tmp_path / "out").synthesize([], Models(Scripted(right), Oracle())).traces
    assert len(traces) == 6


def test_aliases_are_written_where_a_benchmark_has_them(tmp_path):
    examples = [replace(EXAMPLES[0], aliases=("other",)), *EXAMPLES[1:]]
    export(MBTS(), tmp_path, examples=examples)

    rows = pq.read_table(file_of(tmp_path)).to_pylist()
    assert {row["metadata"]["id"]: row["answer_aliases"] for row in rows}[examples[0].id] == ["other"]
    assert read(tmp_path, gate=True).rejections == {}


def test_rollouts_are_written_right_and_wrong(tmp_path):
    right_ids = {example.id for example in EXAMPLES[:2]}
    student = Scripted(
        lambda request: right(request) if request.example.id in right_ids else [wrong, endless][request.sample](request)
    )
    rollouts = generate_rollouts(student, EXAMPLES, samples=2)
    export_rollouts(rollouts, EXAMPLES, tmp_path, split="validation", facts={"student": "scripted"})

    assert pq.read_schema(file_of(tmp_path, "validation")).names == [*QUESTION, *ROLLOUT]
    made = Published(source=file_of(tmp_path, "validation")).synthesize([], Models(student, Oracle()))
    # Two right answers to each of two questions are the same; of the other four, one is wrong and one unfinished.
    assert made.rejections == {"duplicate": 2, "invalid": 4, "wrong": 4}
    assert {trace.example_id for trace in made.traces} == right_ids


def test_what_can_not_be_exported_is_said(tmp_path):
    traces = MBTS().synthesize(EXAMPLES, Models(Scripted(right), Oracle())).traces
    with pytest.raises(InputError, match=r"there is nothing to export$"):
        export_traces([], EXAMPLES, tmp_path / "x", kind="synthesis", facts={})
    with pytest.raises(InputError, match=r"is none of the 2 questions of the data$"):
        export_traces(traces, EXAMPLES[:2], tmp_path / "x", kind="synthesis", facts={})
    with pytest.raises(InputError, match=r"the draft is not known$"):
        export_traces(traces, EXAMPLES, tmp_path / "x", kind="rewrite", facts={})
    assert not (tmp_path / "x").exists()
