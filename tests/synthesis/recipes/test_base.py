"""The gate, and that every request is accounted for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from introspect.chat.prompts import question_messages
from introspect.chat.protocol import ChatRequest, ChatResponse, Sampling, split_reasoning
from introspect.chat.usage import Usage
from introspect.synthesis.recipes.base import ask, draft_requests, find_fault, find_text_fault
from tests.synthesis.recipes.scripted import EXAMPLES, Scripted, right

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
        (f"As the solution guide says, it is {GOLD}.", "stop", "leak"),
        (f"We follow what the guide lists. It is {GOLD}.", "stop", "leak"),
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


def test_what_failed_for_good_is_told_last() -> None:
    requests = draft_requests(EXAMPLES[:3], 1, Sampling())
    model = Scripted(right, fails={requests[1].id})
    asked = list(ask(model, requests, None, "drafts"))
    assert [request.id for request, _ in asked] == [requests[2].id, requests[0].id, requests[1].id]
    assert asked[2][1] is None
    assert all(reply is not None and reply.request_id == request.id for request, reply in asked[:2])
    assert find_fault(None, EXAMPLES[0]) == "request_failed"


def test_only_a_teacher_is_told_the_example() -> None:
    (request,) = draft_requests(EXAMPLES[:1], 1, Sampling())
    assert request == ChatRequest(f"{EXAMPLES[0].id}/0", question_messages(EXAMPLES[0]), Sampling())
    (request,) = draft_requests(EXAMPLES[:1], 1, Sampling(), by_teacher=True)
    assert request.example == EXAMPLES[0]


def test_words_of_the_source_are_no_leak() -> None:
    text = "The answer key is in the safe. It is Rome."
    assert find_text_fault(text, "Where is the answer key?", ["Rome"]) is None
    assert find_text_fault(text, "Where is it?", ["Rome"]) == "leak"
