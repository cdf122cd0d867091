"""The models of a recipe account for every request."""

from __future__ import annotations

from introspect.chat.prompts import question_messages
from introspect.chat.protocol import ChatRequest, Sampling
from introspect.oracle.teacher import Oracle
from introspect.synthesis.acceptance import find_fault
from introspect.synthesis.recipes.base import Models, draft_requests
from tests.synthesis.recipes.scripted import EXAMPLES, Scripted, right


def test_requests_that_failed_permanently_come_last() -> None:
    requests = draft_requests(EXAMPLES[:3], 1, Sampling(), "student")
    models = Models(Scripted(right, fails={requests[1].id}), Oracle())
    asked = list(models.generate("student", requests, "drafts"))
    assert [request.id for request, _ in asked] == [requests[2].id, requests[0].id, requests[1].id]
    assert asked[2][1] is None
    assert all(reply is not None and reply.request_id == request.id for request, reply in asked[:2])
    assert find_fault(None, EXAMPLES[0]) == "request_failed"


def test_only_a_teachers_request_carries_the_example() -> None:
    (request,) = draft_requests(EXAMPLES[:1], 1, Sampling(), "student")
    assert request == ChatRequest(f"{EXAMPLES[0].id}/0", question_messages(EXAMPLES[0]), Sampling())
    (request,) = draft_requests(EXAMPLES[:1], 1, Sampling(), "teacher")
    assert request.example == EXAMPLES[0]
