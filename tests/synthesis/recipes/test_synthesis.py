from __future__ import annotations

from introspect.chat.prompts import question_messages
from introspect.oracle.teacher import Oracle
from introspect.synthesis.recipes import MBTS
from tests.synthesis.recipes.scripted import BY_ID, EXAMPLES, Scripted, concludes, right


def test_mbt_s_asks_only_the_teacher() -> None:
    student = Scripted(right)
    made = MBTS(traces=2).synthesize(EXAMPLES, student, Oracle())
    assert student.asked == []
    assert {trace.example_id for trace in made.traces} == set(BY_ID)
    assert len(made.traces) + sum(made.rejections.values()) == 12
    trace = made.traces[0]
    example = BY_ID[trace.example_id]
    assert trace.messages == question_messages(example)
    assert trace.target.startswith("<think>\n")
    assert trace.target.endswith(f"\n</think>\n\n<answer>{example.answer}</answer>")
    assert trace.draft is None


def test_failed_requests_are_counted() -> None:
    teacher = Scripted(concludes, fails={f"{EXAMPLES[2].id}/0", f"{EXAMPLES[2].id}/1"})
    made = MBTS(traces=2).synthesize(EXAMPLES, Scripted(right), teacher)
    assert EXAMPLES[2].id not in {trace.example_id for trace in made.traces}
    assert made.rejections == {"request_failed": 2, "duplicate": 5}
    assert MBTS(traces=2).settings == {"traces": 2}


def test_a_teachers_private_reasoning_never_reaches_a_trace() -> None:
    teacher = Scripted(lambda request: (f"<think>\nI was given it.\n</think>\n\n{concludes(request)[0]}", "stop"))
    made = MBTS().synthesize(EXAMPLES, Scripted(right), teacher)
    assert len(made.traces) == 6
    assert not any("given" in trace.target for trace in made.traces)
