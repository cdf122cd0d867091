"""Requests to token ids and token ids to responses: what every engine that runs here has in common."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from introspect.chat.protocol import THINK_CLOSE, THINK_OPEN, ChatRequest, ChatResponse, Sampling, split_reasoning
from introspect.chat.usage import Usage
from introspect.core.errors import InputError


class Turns:
    """Renders requests with a tokenizer's chat template, and reads what a model made of them."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        """`name` is what the model is called in messages. Raises InputError for a tokenizer without chat template."""
        if not tokenizer.chat_template:
            raise InputError(f"{name}: the tokenizer has no chat template; expected a chat_template.jinja beside it")
        self._tokenizer, self._name = tokenizer, name
        self.template = str(tokenizer.get_chat_template())
        self._opened = _opened_block(tokenizer)

    @property
    def digest(self) -> str:
        """SHA-256 of the chat template: part of what answers depend on."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def render(self, requests: Sequence[ChatRequest]) -> list[list[int]]:
        """Prompt token ids, up to and including what opens the assistant's turn.

        Raises:
            InputError: the chat template refuses the messages.
        """
        from jinja2 import TemplateError

        conversations = [[{"role": m.role, "content": m.content} for m in request.messages] for request in requests]
        try:
            # Since transformers 5 the default is a mapping, of which len() is the number of its keys.
            rendered = self._tokenizer.apply_chat_template(conversations, add_generation_prompt=True, return_dict=False)
        except TemplateError as error:
            raise InputError(f"{self._name}: the chat template refuses the messages: {error}") from error
        return list(rendered)

    def response(self, request_id: str, prompt_tokens: int, ids: Sequence[int], *, stopped: bool) -> ChatResponse:
        """The completion `ids` as a response; `stopped` says that its last token ended the turn."""
        body = ids[:-1] if stopped else ids
        text = self._opened + self._text(body)
        reasoning, content, closed = split_reasoning(text)
        if not closed:
            reasoning_tokens = len(body)
        elif content == text.strip():
            reasoning_tokens = 0
        else:
            reasoning_tokens = self._tokens_through_last_close(body)
        return ChatResponse(
            request_id=request_id,
            reasoning=reasoning,
            content=content,
            finish_reason="stop" if stopped else "length" if ids else "context_length",
            usage=Usage(prompt_tokens, len(ids), reasoning_tokens),
        )

    def _tokens_through_last_close(self, ids: Sequence[int]) -> int:
        """How many tokens it takes to the end of the last `</think>`, however many tokens the tag itself is."""

        def closes(length: int) -> int:
            return self._text(ids[:length]).count(THINK_CLOSE)

        return bisect_left(range(len(ids)), closes(len(ids)), key=closes)

    def _text(self, ids: Sequence[int]) -> str:
        # Special tokens stay: where the think tags are special, they are what splits the turn.
        text = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)


def check_sampling(sampling: Sampling) -> None:
    """InputError for sampling settings out of range."""
    if not sampling.temperature >= 0:
        raise InputError(f"sampling.temperature: expected 0 or more, got {sampling.temperature}")
    if not 0 < sampling.top_p <= 1:
        raise InputError(f"sampling.top_p: expected more than 0 and at most 1, got {sampling.top_p}")
    if sampling.top_k < 0:
        raise InputError(f"sampling.top_k: expected 0 (all tokens) or more, got {sampling.top_k}")
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise InputError(f"sampling.max_tokens: expected at least 1 or null, got {sampling.max_tokens}")


def _opened_block(tokenizer: Any) -> str:
    """`<think>` and what follows it, where the template's generation prompt opens the block itself; else ""."""
    question = [{"role": "user", "content": "?"}]
    prompt, asked = (
        tokenizer.apply_chat_template(question, add_generation_prompt=opening, tokenize=False)
        for opening in (True, False)
    )
    _, opened, tail = prompt.removeprefix(asked).rpartition(THINK_OPEN)
    return opened + tail if opened and THINK_CLOSE not in tail else ""
