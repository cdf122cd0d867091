"""Rejection sampling: right rollouts as they are, the others counted by what was wrong with them."""

from __future__ import annotations

from introspect.chat.prompts import question_messages
from introspect.chat.protocol import ChatRequest, tag_answer
from introspect.oracle.teacher import Oracle
from introspect.synthesis.recipes import SelfDistill, TeacherDistill
from introspect.synthesis.recipes.base import Models
from tests.synthesis.recipes.scripted import BY_ID, EXAMPLES, Scripted, endless, example_of, right, wrong


def test_self_distillation_keeps_only_right_rollouts_as_they_are() -> None:
    first = EXAMPLES[0].id

    def reply(request: ChatRequest) -> tuple[str, str]:
        return right(request) if example_of(request).id == first else wrong(request)

    made = SelfDistill(rollouts=2).synthesize(EXAMPLES, Models(Scripted(reply), Oracle()))
    assert [trace.example_id for trace in made.traces] == [first]
    assert made.traces[0].target == right(ChatRequest("", question_messages(EXAMPLES[0])))[0]
    assert made.rejections == {"duplicate": 1, "wrong": 10}
    assert SelfDistill().synthesize(EXAMPLES, Models(Scripted(endless), Oracle())).rejections == {"unfinished": 6}
    bare = Scripted(lambda request: (tag_answer(example_of(request).answer), "stop"))
    assert SelfDistill().synthesize(EXAMPLES, Models(bare, Oracle())).rejections == {"empty": 6}


def test_failed_requests_are_counted() -> None:
    student = Scripted(right, fails={f"{EXAMPLES[3].id}/0", f"{EXAMPLES[4].id}/1"})
    made = SelfDistill(rollouts=2).synthesize(EXAMPLES, Models(student, Oracle()))
    # The two rollouts of an example are the same here: five examples keep one and lose a duplicate, unless it failed.
    assert made.rejections == {"request_failed": 2, "duplicate": 4}
    assert len(made.traces) == 6


def test_the_criterion_is_a_setting_and_recorded() -> None:
    def near(request: ChatRequest) -> tuple[str, str]:
        answer = example_of(request).answer
        return f"<think>\nHm.\n</think>\n\n{tag_answer(f'it is {answer}')}", "stop"

    strict = SelfDistill().synthesize(EXAMPLES, Models(Scripted(near), Oracle()))
    lenient = SelfDistill(accept="f1>=0.5").synthesize(EXAMPLES, Models(Scripted(near), Oracle()))
    assert (len(strict.traces), len(lenient.traces)) == (0, 6)
    assert SelfDistill(accept="f1>=0.50").settings == {"rollouts": 1, "accept": "f1>=0.5"}


def test_teacher_distillation_asks_the_teacher_plain_questions() -> None:
    student = Scripted(right)
    teacher = Scripted(lambda request: right(request) if request.sample else wrong(request))
    made = TeacherDistill(rollouts=2).synthesize(EXAMPLES, Models(student, teacher))
    assert student.asked == []
    assert len(teacher.asked) == 12
    for request in teacher.asked:
        assert request.messages == question_messages(request.example)
    assert made.rejections == {"wrong": 6}
    assert [(trace.rollout_id, trace.recipe) for trace in made.traces] == [(1, "teacher_distill")] * 6
    for trace in made.traces:  # its reasoning, made without knowing the answer, is what is learnt
        assert trace.target.startswith(f"<think>\nIt is {BY_ID[trace.example_id].answer}.\n</think>")


def test_the_oracle_teaches_without_phases() -> None:
    made = TeacherDistill().synthesize(EXAMPLES, Models(Scripted(right), Oracle()))
    assert len(made.traces) == len(EXAMPLES)
    for trace in made.traces:
        assert "So the answer is" in trace.target
        assert "We verify" not in trace.target
        assert trace.target.endswith(tag_answer(BY_ID[trace.example_id].answer))
