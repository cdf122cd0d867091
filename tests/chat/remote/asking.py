"""Asking a server on loopback: tests/chat/remote/serving.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from introspect.chat.protocol import ChatFailure, ChatRequest, ChatResponse, Message, Sampling
from introspect.chat.remote.openai import OpenAIChat
from introspect.chat.remote.retry import RetryPolicy
from tests.chat.remote import serving
from tests.chat.remote.serving import Serving, question

# As patient as the default, but in a hurry.
QUICK = RetryPolicy(base_s=0.01, cap_s=0.05, timeout_s=20.0, deadline_s=60.0, breaker_failures=1000)


def request(number: int, **sampling: Any) -> ChatRequest:
    return ChatRequest(str(number), (Message("user", question(number)),), Sampling(**sampling))


def chat(server: Serving, **options: Any) -> OpenAIChat:
    return OpenAIChat("m", base_url=server.url, **{"retry": QUICK, "concurrency": 8, **options})


@contextmanager
def replying(completion: dict[str, Any]) -> Iterator[None]:
    """Let every server of this process send this completion."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "completion", lambda *_, **__: completion)
        yield


def ask(model: OpenAIChat, count: int = 1) -> dict[str, ChatResponse | ChatFailure]:
    """Replies by request id, each exactly once."""
    replies = list(model.generate(request(number) for number in range(count)))
    assert len({reply.request_id for reply in replies}) == len(replies) == count
    return {reply.request_id: reply for reply in replies}
