"""The recipes with a teacher: who gets which requests, what becomes a trace, and that every rejection is counted."""

from __future__ import annotations

import pytest

from introspect.chat.prompts import question_messages, render
from introspect.chat.protocol import ChatRequest, Message
from introspect.oracle.teacher import Oracle
from introspect.synthesis.recipes import MBTR, MBTS, DirectR, DistillR
from introspect.synthesis.recipes.base import Models
from introspect.synthesis.recipes.mbt import guide_messages
from introspect.synthesis.traces import Draft
from tests.synthesis.recipes.scripted import BY_ID, EXAMPLES, Scripted, concludes, endless, example_of, right, wrong


def is_guide(request: ChatRequest) -> bool:
    return request.id.endswith("/guide")


def guides_and_rewrites(request: ChatRequest) -> tuple[str, str]:
    """A guide that names its example, and texts that differ."""
    if is_guide(request):
        return f"<think>\nSecret.\n</think>\n\n Guide to {example_of(request).id}.\n", "stop"
    return f"We see, in rewrite {request.id}.\n\n{concludes(request)[0]}", "stop"


def rewrites(teacher: Scripted) -> list[ChatRequest]:
    return [request for request in teacher.asked if "<draft_solution>" in request.messages[-1].content]


def test_drafts_guides_and_rewrites_are_joined_on_ids_whatever_their_order() -> None:
    teacher = Scripted(guides_and_rewrites)
    made = MBTR(rollouts=2, traces=2).synthesize(EXAMPLES, Models(Scripted(right), teacher))
    assert len(teacher.asked) == len(EXAMPLES) * (1 + 4)  # one guide per example, not per draft
    for request in rewrites(teacher):
        example = BY_ID[request.id.split("/")[0]]
        assert request.example == example == example_of(request)
        prompt, guide, rewriting = request.messages
        assert (prompt,) == guide_messages(example)
        assert guide == Message("assistant", f"Guide to {example.id}.")  # without the teacher's think block
        assert f"It is {example.answer}." in rewriting.content.split("<draft_solution>")[1]
        assert example.context not in rewriting.content  # the prompt of the guide has it already
    assert made.rejections == {}
    assert len(made.traces) == 24
    assert all(BY_ID[trace.example_id].answer in trace.target for trace in made.traces)
    assert all(f"{t.example_id}/{t.rollout_id}/{t.trace_id}." in t.target for t in made.traces)


def test_without_guides_the_answer_is_in_the_prompt() -> None:
    teacher = Scripted(concludes)
    made = MBTR(guides=False, rollouts=2, traces=2).synthesize(EXAMPLES, Models(Scripted(right), teacher))
    assert len(teacher.asked) == len(EXAMPLES) * 4
    for request in teacher.asked:
        (prompt,) = request.messages
        example = BY_ID[request.id.split("/")[0]]
        assert f"<correct_answer>{example.answer}</correct_answer>" in prompt.content
        assert example.context in prompt.content
    assert made.rejections == {"duplicate": 3 * len(EXAMPLES)}  # the same words four times over


def test_correct_and_wrong_drafts_are_rewritten_and_unfinished_ones_dropped() -> None:
    made = MBTR().synthesize(EXAMPLES, Models(Scripted(wrong), Oracle()))
    assert len(made.traces) == len(EXAMPLES)
    assert all("what about nobody?" in trace.target for trace in made.traces)
    assert made.traces[0].draft == Draft("Hmm.", "<answer>nobody</answer>", finished=True)
    teacher = Scripted(concludes)
    made = MBTR(traces=2).synthesize(EXAMPLES, Models(Scripted(endless), teacher))
    assert made.traces == ()
    assert made.rejections == {"draft_unfinished": 12}
    assert teacher.asked == []  # not even for a guide, which no rewrite would need
    silent = Scripted(lambda request: ("", "stop"))
    assert MBTR().synthesize(EXAMPLES, Models(silent, teacher)).rejections == {"draft_empty": 6}
    made = MBTR(unfinished_drafts=True).synthesize(EXAMPLES, Models(Scripted(endless), Oracle()))
    assert len(made.traces) == len(EXAMPLES)
    assert made.traces[0].draft == Draft("Wait, let me check again.", "", finished=False)


def test_every_failure_is_counted_for_every_rewrite_that_is_missing() -> None:
    first, second, third, *_ = (example.id for example in EXAMPLES)
    student = Scripted(right, fails={f"{first}/0"})
    teacher = Scripted(guides_and_rewrites, fails={f"{second}/guide", f"{third}/0/1"})
    made = MBTR(traces=2).synthesize(EXAMPLES, Models(student, teacher))
    assert made.rejections == {"request_failed": 2 + 2 + 1}
    assert len(made.traces) == 7


@pytest.mark.parametrize(
    ("guide", "fault"),
    [(("Step 1", "length"), "guide_unfinished"), (("<think>\nHm.\n</think>", "stop"), "guide_empty")],
)
def test_a_failed_guide_rejects_its_rewrites(guide: tuple[str, str], fault: str) -> None:
    teacher = Scripted(lambda request: guide if is_guide(request) else concludes(request))
    made = MBTR(traces=3).synthesize(EXAMPLES, Models(Scripted(right), teacher))
    assert made.rejections == {fault: 18}
    assert rewrites(teacher) == []


def test_direct_r_rewrites_the_teachers_own_answers() -> None:
    student = Scripted(right)

    def reply(request: ChatRequest) -> tuple[str, str]:
        return (
            wrong(request) if request.messages == question_messages(request.example) else guides_and_rewrites(request)
        )

    teacher = Scripted(reply)
    made = DirectR(rollouts=2).synthesize(EXAMPLES, Models(student, teacher))
    assert student.asked == []
    assert len(teacher.asked) == len(EXAMPLES) * (2 + 1 + 2)
    assert all("Hmm.\n\n<answer>nobody</answer>" in request.messages[-1].content for request in rewrites(teacher))
    assert len(made.traces) == 12
    assert {trace.recipe for trace in made.traces} == {"direct_r"}


def test_distill_r_differs_from_mbt_r_only_in_the_form_of_the_rewrite() -> None:
    asked = {}
    for recipe in (MBTR(), DistillR()):
        teacher = Scripted(guides_and_rewrites)
        recipe.synthesize(EXAMPLES, Models(Scripted(right), teacher))
        asked[recipe.name] = {request.id: request.messages for request in teacher.asked}
    assert asked["mbt_r"].keys() == asked["distill_r"].keys()
    for key, messages in asked["mbt_r"].items():
        others = asked["distill_r"][key]
        assert messages[:-1] == others[:-1]
        assert (messages == others) == key.endswith("/guide")
    values = {"context": "", "question": "", "answer": "", "draft_solution": "D", "guided": True}
    phases, plain = (render("synthesis", name, **values) for name in ("mbt_r", "distill_r"))
    assert "five phases" in phases
    assert "phases" not in plain
    # The limits of form are the same.
    assert phases.splitlines()[-1] == plain.splitlines()[-1]


def test_the_oracle_rewrites_with_and_without_phases() -> None:
    (direct, *_), (plain, *_) = (
        recipe.synthesize(EXAMPLES[:1], Models(Scripted(wrong), Oracle())).traces for recipe in (DirectR(), DistillR())
    )
    assert "We verify" in direct.target
    assert "So the answer is" in direct.draft.reasoning
    assert "We verify" not in plain.target
    assert "nobody" not in plain.target  # the wrong turn is not mentioned
    assert "?" not in plain.target.replace(EXAMPLES[0].question, "")


def test_the_student_is_closed_before_the_teacher_generates() -> None:
    order: list[str] = []

    class Held(Scripted):
        def close(self) -> None:
            order.append("student closed")

    def reply(request: ChatRequest) -> tuple[str, str]:
        order.append("teacher generates")
        return concludes(request)

    MBTR(guides=False).synthesize(EXAMPLES[:1], Models(Held(right), Scripted(reply)))
    assert order == ["student closed", "teacher generates"]
    order.clear()
    DirectR(guides=False).synthesize(EXAMPLES[:1], Models(Held(right), Scripted(reply)))
    assert order == ["teacher generates"] * 2


def test_settings_are_recorded() -> None:
    expected = {"rollouts": 1, "traces": 2, "guides": False, "unfinished_drafts": False}
    assert MBTR(traces=2, guides=False).settings == DirectR(traces=2, guides=False).settings == expected


def test_mbt_s_uses_only_the_teacher() -> None:
    student = Scripted(right)
    made = MBTS(traces=2).synthesize(EXAMPLES, Models(student, Oracle()))
    assert student.asked == []
    assert {trace.example_id for trace in made.traces} == set(BY_ID)
    assert len(made.traces) + sum(made.rejections.values()) == 12
    trace = made.traces[0]
    example = BY_ID[trace.example_id]
    assert trace.messages == question_messages(example)
    assert trace.target.startswith("<think>\n")
    assert trace.target.endswith(f"\n</think>\n\n<answer>{example.answer}</answer>")
    assert trace.draft is None


def test_mbt_s_counts_failed_requests() -> None:
    teacher = Scripted(concludes, fails={f"{EXAMPLES[2].id}/0", f"{EXAMPLES[2].id}/1"})
    made = MBTS(traces=2).synthesize(EXAMPLES, Models(Scripted(right), teacher))
    assert EXAMPLES[2].id not in {trace.example_id for trace in made.traces}
    assert made.rejections == {"request_failed": 2, "duplicate": 5}
    assert MBTS(traces=2).settings == {"traces": 2}


def test_the_think_block_of_a_teacher_never_reaches_a_trace() -> None:
    teacher = Scripted(lambda request: (f"<think>\nI was given it.\n</think>\n\n{concludes(request)[0]}", "stop"))
    made = MBTS().synthesize(EXAMPLES, Models(Scripted(right), teacher))
    assert len(made.traces) == 6
    assert not any("given" in trace.target for trace in made.traces)
