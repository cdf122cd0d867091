"""Recipes: what is asked of whom, what becomes a trace, and that nothing is lost uncounted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from introspect.reasoning.benchmarks.hopworld import Hopworld
from introspect.reasoning.chat import ChatRequest, ChatResponse, Usage, split_reasoning, tag_answer
from introspect.reasoning.models.oracle import Oracle
from introspect.reasoning.prompts import question_messages
from introspect.reasoning.recipes import MBTR, MBTS, SelfDistill
from introspect.reasoning.recipes.base import find_fault

EXAMPLES = Hopworld(seed=0, sizes={"train": 6}).load("train")
BY_ID = {example.id: example for example in EXAMPLES}


class Scripted:
    """A chat model that answers by a function of the request, in reverse order."""

    def __init__(self, reply) -> None:
        self.identity = {"model": "scripted"}
        self.reply = reply
        self.asked: list[ChatRequest] = []

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse]:
        self.asked = list(requests)
        for request in reversed(self.asked):
            text, reason = self.reply(request)
            parts = split_reasoning(text)
            yield ChatResponse(request.id, parts.reasoning, parts.content, reason, Usage(1, 1, 0))


def example_of(request: ChatRequest):
    return next(example for example in EXAMPLES if example.question in request.messages[-1].content)


def right(request: ChatRequest) -> tuple[str, str]:
    answer = example_of(request).answer
    return f"<think>\nIt is {answer}.\n</think>\n\n{tag_answer(answer)}", "stop"


def wrong(request: ChatRequest) -> tuple[str, str]:
    return f"<think>\nHmm.\n</think>\n\n{tag_answer('nobody')}", "stop"


def endless(request: ChatRequest) -> tuple[str, str]:
    return "<think>\nWait, let me check again.", "length"


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


def test_mbt_r_joins_drafts_on_ids_whatever_their_order() -> None:
    teacher = Scripted(lambda request: (f"We see. The answer is {example_of(request).answer}.", "stop"))
    made = MBTR(rollouts=2, traces=2).synthesize(EXAMPLES, Scripted(right), teacher)
    assert len(teacher.asked) == len(EXAMPLES) * 4
    for request in teacher.asked:
        assert request.example == example_of(request) == BY_ID[request.id.split("/")[0]]
        assert f"It is {request.example.answer}." in request.messages[-1].content.split("<draft_solution>")[1]
    assert made.rejections == {"duplicate": 3 * len(EXAMPLES)}  # the same words four times over
    assert all(BY_ID[trace.example_id].answer in trace.target for trace in made.traces)


def test_mbt_r_rewrites_wrong_drafts_and_drops_unfinished_ones() -> None:
    made = MBTR().synthesize(EXAMPLES, Scripted(wrong), Oracle())
    assert len(made.traces) == len(EXAMPLES)
    assert all("what about nobody?" in trace.target for trace in made.traces)
    made = MBTR(traces=2).synthesize(EXAMPLES, Scripted(endless), Oracle())
    assert made.traces == ()
    assert made.rejections == {"draft_unfinished": 12}
    made = MBTR(unfinished_drafts=True).synthesize(EXAMPLES, Scripted(endless), Oracle())
    assert len(made.traces) == len(EXAMPLES)


def test_self_distillation_keeps_only_right_rollouts_as_they_are() -> None:
    first = EXAMPLES[0].id

    def reply(request: ChatRequest) -> tuple[str, str]:
        return right(request) if example_of(request).id == first else wrong(request)

    made = SelfDistill(rollouts=2).synthesize(EXAMPLES, Scripted(reply), Oracle())
    assert [trace.example_id for trace in made.traces] == [first]
    assert made.traces[0].target == right(ChatRequest("", question_messages(EXAMPLES[0])))[0]
    assert made.rejections == {"duplicate": 1, "wrong": 10}
    assert SelfDistill().synthesize(EXAMPLES, Scripted(endless), Oracle()).rejections == {"unfinished": 6}
    bare = Scripted(lambda request: (tag_answer(example_of(request).answer), "stop"))
    assert SelfDistill().synthesize(EXAMPLES, bare, Oracle()).rejections == {"empty": 6}


GOLD = EXAMPLES[0].answer


@pytest.mark.parametrize(
    ("content", "reason", "fault"),
    [
        (f"We look.\n\nThe answer is {GOLD}.", "stop", None),
        (f"The answer is {GOLD.upper()}", "stop", None),
        (f"The answer is {GOLD}.", "length", "truncated"),
        ("  \n ", "stop", "empty"),
        (f"<think>x</think> {GOLD}", "stop", None),  # a block that opens the text is the teacher's own thought
        (f"We know. <answer>{GOLD}</answer>", "stop", "tags"),
        (f"The provided answer fits.\n\nThe answer is {GOLD}.", "stop", "leak"),
        (f"The draft went wrong here.\n\nThe answer is {GOLD}.", "stop", "leak"),
        (f"The answer we were given is {GOLD}.", "stop", "leak"),
        (f"It is {GOLD}.\n\nSo we are done.", "stop", "answer_missing"),
        (f"The answer is {GOLD}ish.", "stop", "answer_missing"),
        (f"So the correct answer is {GOLD}.", "stop", None),
        (f"The answer is {GOLD}, as verified above.", "stop", None),
        (f"At first it seemed to be {GOLD}. The answer is Paris.", "stop", "answer_missing"),
        (f"The answer is not {GOLD}, it is Paris.", "stop", "answer_missing"),
        (f"The answer is not {GOLD}.", "stop", "answer_missing"),
        (f"The ground truth is {GOLD}.", "stop", "leak"),
        (f"The answer key says {GOLD}.", "stop", "leak"),
        (f"The answer we already have is {GOLD}.", "stop", "leak"),
        (f"As the prompt says, it is {GOLD}.", "stop", "leak"),
        (f"The previous attempt said Paris. It is {GOLD}.", "stop", "leak"),
        (f"The original solution claimed Paris. It is {GOLD}.", "stop", "leak"),
        (f"The hint tells us that it is {GOLD}.", "stop", "leak"),
    ],
)
def test_the_gate(content: str, reason: str, fault: str | None) -> None:
    parts = split_reasoning(content)
    response = ChatResponse("r", parts.reasoning, parts.content, reason, Usage(1, 1, 0))
    assert find_fault(response, EXAMPLES[0]) == fault


@pytest.mark.parametrize(
    ("answer", "content", "fault"),
    [
        ("no", "There is no doubt about it. The answer is yes.", "answer_missing"),
        ("no", "The answer is no.", None),
        ("A", "The blood type is A.", None),
        ("A", "The blood type is B.", "answer_missing"),
        ("!!!", "The band is called !!!", None),
        ("Dr. J. R. Smith", "The answer is Dr. J. R. Smith.", None),
    ],
)
def test_the_gate_with_answers_of_an_awkward_kind(answer: str, content: str, fault: str | None) -> None:
    example = replace(EXAMPLES[0], answer=answer, aliases=())
    assert find_fault(ChatResponse("r", "", content, "stop", Usage(1, 1, 0)), example) == fault
