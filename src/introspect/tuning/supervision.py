"""From a conversation to the tokens that a student learns: exactly the assistant turn, and that is checked.

The whole conversation is rendered once with the tokenizer's chat template. What the template renders as the prompt of
a generation must be the beginning of it; the rest (the target, the end-of-turn token and what the template puts after
it) is supervised. A template that strips or rewrites the think block of a turn would train something else than the
trace: it is refused, and `chat.templates.training_template` is the remedy.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from introspect.chat.protocol import Message
from introspect.chat.templates import (
    Conversation,
    encode,
    last_visible,
    render_conversation,
    special_ids,
    tokenizer_name,
)
from introspect.core.errors import InputError

# How many conversations are given to the tokenizer at once; it works on them in parallel.
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Supervised:
    """A tokenised sequence of which `input_ids[prompt_length:]` is learnt and the rest is only read."""

    input_ids: tuple[int, ...]
    prompt_length: int


def supervise(tokenizer: Any, messages: Sequence[Message], target: str) -> Supervised:
    """Tokenise one conversation and mark its assistant turn.

    The prompt's tokens are those that a generation starts from. Where the tokenizer would merge the end of the prompt
    with the beginning of the target, the two are tokenised apart, because that is what the student will see.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        messages: the turns before the assistant's.
        target: the assistant's turn, think block and answer.

    Raises:
        InputError: the template changes the target or does not end the turn, or the tokens do not spell the target.
    """
    return next(supervise_all(tokenizer, [Conversation("conversation", messages, target)]))


def supervise_all(tokenizer: Any, conversations: Iterable[Conversation]) -> Iterator[Supervised]:
    """`supervise` for many conversations, in their order, tokenised in parallel."""
    special = special_ids(tokenizer)
    remaining = iter(conversations)
    while chunk := list(islice(remaining, _CHUNK)):
        rendered = [render_conversation(tokenizer, conversation) for conversation in chunk]
        prompts = encode(tokenizer, [prompt for prompt, _ in rendered])
        wholes = encode(tokenizer, [prompt + completion for prompt, completion in rendered])
        for conversation, (_, text), prompt, whole in zip(chunk, rendered, prompts, wholes, strict=True):
            seamless = whole[: len(prompt)] == prompt
            completion = whole[len(prompt) :] if seamless else encode(tokenizer, [text])[0]
            _check(tokenizer, conversation.name, completion, text, special)
            yield Supervised((*prompt, *completion), len(prompt))


def _check(tokenizer: Any, name: str, completion: Sequence[int], text: str, special: set[int]) -> None:
    """Assert that the supervised tokens spell the completion and end the turn."""
    if not completion:
        raise InputError(f"{name}: no token of the conversation is supervised")
    spelt = tokenizer.decode(list(completion), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    # Many tokenizers normalise Unicode, which changes no meaning.
    if unicodedata.normalize("NFKC", spelt) != unicodedata.normalize("NFKC", text):
        at = next((i for i, (a, b) in enumerate(zip(spelt, text, strict=False)) if a != b), min(len(spelt), len(text)))
        raise InputError(
            f"{name}: the tokens of {tokenizer_name(tokenizer)} do not spell the target:"
            f" {spelt[at : at + 20]!r} stands for {text[at : at + 20]!r} at character {at}"
        )
    if last_visible(tokenizer, completion) not in special:
        raise InputError(
            f"{name}: no end-of-turn token is supervised: the chat template of {tokenizer_name(tokenizer)} does not"
            " end the assistant's turn with a special token, and the student would never learn to stop"
        )
