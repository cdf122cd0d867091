"""Published traces: the reference's row filters and targets, and errors that name row and column."""

from __future__ import annotations

import json

import pytest

from introspect.benchmarks.hopworld import Hopworld
from introspect.chat.protocol import Message
from introspect.chat.templates import with_template
from introspect.core.errors import InputError
from introspect.oracle.teacher import Oracle
from introspect.synthesis.recipes import MBTR, Published, PublishedGuides
from introspect.synthesis.recipes.base import Models
from introspect.synthesis.traces import Draft
from tests.synthesis.published.made import row, write
from tests.synthesis.recipes.scripted import EXAMPLES, Scripted, concludes, right
from tests.tuning.tiny import tiny_tokenizer


def read(path, *rows, **settings):
    source = write(path / "t.parquet", *rows)
    return Published(source=source, **settings).synthesize([], Models(Scripted(right), Oracle()))


def test_a_refined_trace_is_learnt_with_the_gold_answer(tmp_path):
    made = read(tmp_path, row(predicted_answer="Rome", response="<think>\nHm.\n</think>\n\n<answer>Rome</answer>"))

    (trace,) = made.traces
    assert (trace.example_id, trace.rollout_id, trace.trace_id) == ("5a7a06935542990198eaf050", 0, 0)
    assert trace.messages == (Message("user", "Where?"),)
    assert trace.target == "<think>\nWe look.\n\nThe answer is Delft.\n</think>\n\n<answer>Delft</answer>"
    assert trace.draft == Draft("Hm.", "<answer>Rome</answer>", finished=True)


def test_a_synthesized_trace_needs_no_rollout(tmp_path):
    gone = dict.fromkeys(("rollout_id", "response", "valid", "evaluation", "trace_id", "refined_trace"), ...)
    (trace,) = read(tmp_path, row(**gone, synthesized_trace=" We see. ")).traces

    assert trace.target == "<think>\nWe see.\n</think>\n\n<answer>Delft</answer>"


def test_a_response_is_learnt_as_it_is(tmp_path):
    response = "<think>\n Hm \n</think>\n\nIt is <answer>Delft</answer> "
    (trace,) = read(tmp_path, row(refined_trace=..., trace_id=..., response=response)).traces

    assert trace.target == response


def test_targets_without_reasoning_are_said(tmp_path, caplog):
    rows = [row(response="<answer>Delft</answer>"), row(rollout_id=2)]
    assert len(read(tmp_path, *rows, target="response").traces) == 2
    assert "t.parquet: 1 of 2 targets have no think block" in caplog.text
    caplog.clear()
    recipe = Published(source=tmp_path / "t.parquet", target="auto", num_rollouts=1)
    recipe.synthesize([], Models(Scripted(right), Oracle()))
    assert caplog.text == ""
    assert recipe.settings["target"] == "refined_trace"  # what auto has found


def test_rows_are_filtered_as_by_the_reference_and_counted(tmp_path):
    rows = [
        row(),
        row(rollout_id=2, valid=False),
        row(rollout_id=3, refined_trace="Another."),
        row(rollout_id=2, trace_id=2, refined_trace="A third."),
        row(rollout_id=2, trace_id=3, evaluation=False, refined_trace="A fourth: wrong drafts are rewritten too."),
        row(sample_id=2, metadata={"id": "b", "level": "hard"}, refined_trace="  "),
        row(rollout_id=1, trace_id=2),
    ]
    made = read(tmp_path, *rows, num_rollouts=2, num_traces=2)

    assert made.rejections == {"invalid": 1, "beyond_rollouts": 1, "beyond_traces": 1, "empty": 1, "duplicate": 1}
    assert [(t.rollout_id, t.trace_id) for t in made.traces] == [(0, 0), (1, 1)]
    assert len(read(tmp_path, *rows).traces) == 4


@pytest.mark.parametrize(
    ("accept", "kept"), [("evaluation", [0]), ("exact_match", [1]), ("f1>=0.5", [1, 2]), ("substring", [1, 2])]
)
def test_right_responses_are_those_of_the_column_or_of_a_criterion(tmp_path, accept, kept):
    def answered(number, answer, evaluation):
        response = f"<think>\nDelft?\n</think>\n\n<answer>{answer}</answer>"
        return row(rollout_id=number + 1, response=response, evaluation=evaluation)

    rows = [answered(0, "Rome", 1), answered(1, "Delft", 0), answered(2, "in Delft", False)]
    made = read(
        tmp_path, *[{**r, "evaluation": float(r["evaluation"])} for r in rows], target="response", accept=accept
    )

    assert [trace.rollout_id for trace in made.traces] == kept
    assert made.rejections == {"wrong": 3 - len(kept)}


def test_aliases_are_accepted_too(tmp_path):
    item = row(answer="Delft", answer_aliases=["City of Delft"], response="<answer>City of Delft</answer>")

    assert len(read(tmp_path, item, target="response", accept="exact_match").traces) == 1


def test_our_gate_can_be_put_before_them(tmp_path):
    rows = [
        row(),
        row(trace_id=2, refined_trace="The provided answer is Delft."),
        row(trace_id=3, refined_trace="We can not tell."),
    ]
    assert read(tmp_path, *rows).rejections == {}
    assert read(tmp_path, *rows, gate=True).rejections == {"leak": 1, "answer_missing": 1}


def test_questions_can_be_limited(tmp_path):
    rows = [row(metadata={"id": name, "level": ""}, refined_trace=f"{name}.") for name in ("a", "b", "c")]
    rows.append(row(metadata={"id": "a", "level": ""}, trace_id=2, refined_trace="a again."))

    assert [trace.example_id for trace in read(tmp_path, *rows, examples=2).traces] == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"valid": None}, "row 1, field 'valid': expected true or false, got null"),
        ({"valid": "yes"}, "row 1, field 'valid': expected true or false, got 'yes'"),
        ({"rollout_id": 0}, "row 1, field 'rollout_id': expected a number from 1 on, got 0"),
        ({"trace_id": 1.5}, "row 1, field 'trace_id': expected a whole number, got 1.5"),
        ({"refined_trace": None}, "row 1, field 'refined_trace': expected text, got null"),
        ({"answer": " "}, "row 1, field 'answer': is empty"),
        ({"prompt": []}, "row 1, field 'prompt': expected a conversation"),
        ({"sample_id": None, "metadata": None}, "row 1, field 'sample_id': expected a whole number, got null"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, changes, complaint):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(row(**changes)))
    with pytest.raises(InputError, match=rf"^{path}, {complaint}"):
        Published(source=path).synthesize([], Models(Scripted(right), Oracle()))


@pytest.mark.parametrize(
    ("changes", "settings", "complaint"),
    [
        ({"trace_id": ...}, {}, "column 'trace_id' is missing; there are sample_id, "),
        ({"prompt": ...}, {}, "column 'prompt' is missing"),
        ({}, {"target": "synthesized_trace"}, "column 'synthesized_trace' is missing"),
        (
            {"refined_trace": ..., "response": ...},
            {},
            "column 'refined_trace' is missing; .*; recipe.target can be ref",
        ),
        (
            {"evaluation": ...},
            {"target": "response"},
            "column 'evaluation' is missing; .* recipe.accept=exact_match wo",
        ),
    ],
)
def test_a_missing_column_is_named(tmp_path, changes, settings, complaint):
    with pytest.raises(InputError, match=rf"t.parquet: {complaint}"):
        read(tmp_path, row(**changes), **settings)


def test_the_same_trace_twice_is_named(tmp_path):
    with pytest.raises(InputError, match=r"row 2, field 'sample_id': .* is also in row 1$"):
        read(tmp_path, row(), row(refined_trace="x"))


def test_settings_are_checked_and_recorded():
    with pytest.raises(
        InputError, match=r"^recipe.target is 'x', expected auto, refined_trace, synthesized_trace, resp"
    ):
        Published(source="a/b", target="x")
    with pytest.raises(InputError, match=r"^recipe.accept is 'x', expected exact_match"):
        Published(source="a/b", accept="x")
    settings = Published(source="a/b", config="c", accept="f1>=0.5", num_traces=2).settings
    assert settings["source"] == "a/b"
    assert (settings["accept"], settings["num_traces"], settings["gate"]) == ("f1>=0.5", 2, False)


def golden_rows(shared):
    cases = json.loads((shared / "golden" / "chat_render.json").read_text(encoding="utf-8"))
    for case in cases:
        if case["kind"] == "hotpotqa_sft":
            given, made = case["inputs"], case["output"]
            metadata = {name: value for name, value in given["row"].items() if name not in ("question", "answer")}
            texts = {name: given[name] for name in ("response", "synthesized_trace", "refined_trace")}
            common = {"sample_id": given["idx"] + 1, "metadata": metadata, "prompt": made["messages"], **texts}
            yield row(**common, question=given["row"]["question"], answer=given["row"]["answer"]), made["modes"]


@pytest.mark.parametrize(
    ("mode", "target"),
    [("mbt-r", "refined_trace"), ("mbt-s", "synthesized_trace"), ("distill", "response")],
)
def test_what_is_learnt_is_what_the_reference_learns(tmp_path, shared, mode, target):
    tokenizer = with_template(tiny_tokenizer(), "verbatim")
    rows, modes = zip(*golden_rows(shared), strict=True)
    traces = read(tmp_path, *rows, target=target).traces
    by_id = {trace.example_id: trace for trace in traces}

    assert len(traces) == len(rows) == 3
    for item, expected in zip(rows, modes, strict=True):
        trace = by_id[item["metadata"]["id"]]
        turns = [{"role": m.role, "content": m.content} for m in trace.messages]
        whole = tokenizer.apply_chat_template(
            [*turns, {"role": "assistant", "content": trace.target}], add_generation_prompt=False, tokenize=False
        )
        assert whole == expected[mode]["prompt_completion"]


def guide_row(number, example, **changes):
    values = {
        "sample_id": number,
        "metadata": {"id": example.id},
        "question": example.question,
        "answer": example.answer,
        "solution_prompt": [{"role": "user", "content": f"Guide, please: {example.question}"}],
        "solution": f" Guide to {example.id}. ",
    }
    return {**values, **changes}


def test_published_guides_open_the_rewriting(tmp_path):
    # In another order, and for one question by its words alone; one has no guide, and one guide is of another question.
    rows = [guide_row(number, example) for number, example in enumerate(EXAMPLES[:5], start=1)][::-1]
    rows[0]["metadata"] = {"id": "unknown"}
    rows[1]["solution"] = " "
    rows.append(guide_row(9, Hopworld(seed=9, sizes={"train": 1}).load("train")[0]))
    guides = PublishedGuides(source=write(tmp_path / "g.parquet", *rows))
    teacher = Scripted(concludes)
    made = MBTR(guides=guides).synthesize(EXAMPLES, Models(Scripted(right), teacher))

    assert made.rejections == {"guide_missing": 1, "guide_empty": 1}
    assert len(teacher.asked) == len(made.traces) == 4  # nobody is asked for a guide
    for request in teacher.asked:
        asked, told, _ = request.messages
        assert asked == Message("user", f"Guide, please: {request.example.question}")
        assert told == Message("assistant", f"Guide to {request.example.id}.")
    assert MBTR(guides=guides).settings["guides"] == f"{tmp_path / 'g.parquet'}/train"


def test_a_guide_to_another_question_of_the_same_id_is_refused(tmp_path):
    path = write(tmp_path / "g.parquet", guide_row(1, EXAMPLES[0], question="Who?"))
    with pytest.raises(
        InputError, match=r"g.parquet, row 1, field 'question': is not the one with the id '.*' in hopw"
    ):
        PublishedGuides(source=path).turns(EXAMPLES)
