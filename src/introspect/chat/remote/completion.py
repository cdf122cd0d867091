"""Parses replies of the chat-completions protocol into a reasoning, a content and token counts, or a fault.

Servers disagree on the place of the reasoning: `reasoning` (vLLM, OpenRouter), `reasoning_content` (DeepSeek, SGLang,
older vLLM), or `<think>` inside the content (a server without a reasoning parser). All three end in `Reply.reasoning`.
Replies are untrusted: what does not have the expected form is a `Fault`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeGuard

from introspect.chat.protocol import FINISHED, split_reasoning
from introspect.chat.remote.retry import (
    CONTENT_FILTER,
    EMPTY,
    MALFORMED,
    NO_REASONING,
    RATE_LIMITED,
    REFUSED,
    SERVER_ERROR,
    TOO_LONG,
    Fault,
)
from introspect.chat.usage import Usage
from introspect.core.errors import one_line

_TOO_LONG = re.compile(
    r"context[_ ]length|context window|maximum (?:context|input|prompt|model) ?len|max_model_len|too many tokens"
    r"|(?:prompt|input|request)[^.]{0,40} (?:is )?too long|longer than the maximum|reduce the length",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"content[_ ](?:filter|policy|management)|moderation|flagged|safety system", re.IGNORECASE)
_NO_MONEY = re.compile(r"insufficient[_ ](?:quota|credits?|funds|balance)|billing", re.IGNORECASE)
# Statuses with which a server refuses every request, and what to check.
_STOPS = {
    401: "check the key",
    402: "the account has no credit",
    403: "the key may not use this model",
    404: "check base_url and model",
    405: "check base_url",
}
DETAIL = 300
# Finish reasons of other servers, and those of OpenAI with the same meaning.
_FINISH_REASONS = {
    **dict.fromkeys(("eos", "eos_token", "end_turn", "stop_sequence"), "stop"),
    **dict.fromkeys(("max_tokens", "model_length"), "length"),
}
# The server aborted the turn: it neither ended nor reached a limit.
_ABORTED = frozenset({"abort", "error", "cancelled", "insufficient_system_resource"})
# A larger token count is an error of the server; beyond 2^63 no column would hold it.
_MOST_TOKENS = 2**53


class Reply(NamedTuple):
    """A parsed reply.

    Attributes:
        reasoning: without think tags.
        content: the visible part of the turn.
        finish_reason: in OpenAI's words where there is one.
        usage: token counts; None where the server sends none.
        has_split: whether the server counts reasoning tokens; if not, they are estimated from the number of characters.
    """

    reasoning: str
    content: str
    finish_reason: str
    usage: Usage | None
    has_split: bool


class Faulty(NamedTuple):
    """A reply that is not a usable response.

    Attributes:
        fault: what is wrong with it.
        usage: tokens that the server bills for it; None where it sends no counts.
    """

    fault: Fault
    usage: Usage | None = None


def read_reply(
    body: bytes, *, streamed: bool = False, needs_reasoning: bool = False, needs_content: bool = True
) -> Reply | Faulty:
    """Parse the body of a response with status 200.

    Args:
        body: JSON, or server-sent events.
        streamed: whether it consists of server-sent events.
        needs_reasoning: whether a finished turn without reasoning is a fault.
        needs_content: whether a finished turn with nothing but reasoning is a fault.
    """
    try:
        data = read_events(body.split(b"\n")) if streamed else json.loads(body)
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        return _malformed(str(error) if streamed else f"not JSON: {_excerpt(body)}")
    if isinstance(data, Mapping) and data.get("error"):
        return Faulty(_embedded_error(data["error"]))
    try:
        choice = data["choices"][0]
        if choice.get("error"):
            return Faulty(_embedded_error(choice["error"]))
        message, finish_reason = choice["message"], choice["finish_reason"]
        content, thought = _without_surrogates(_text(message.get("content"))), _without_surrogates(_thought(message))
        refusal = _text(message.get("refusal"))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        return _malformed(f"not a chat completion ({type(error).__name__}: {error})")
    if not isinstance(finish_reason, str):
        return _malformed(f"no finish_reason but {finish_reason!r}")
    finish_reason = _FINISH_REASONS.get(finish_reason, _without_surrogates(finish_reason))
    counts = data.get("usage")
    split = split_reasoning(content)
    reasoning = "\n\n".join(part for part in (thought.strip(), split.reasoning) if part)
    usage, has_split = _usage(counts, reasoning, split.content)
    reply = Reply(reasoning, split.content, finish_reason, usage, has_split)
    fault = _find_fault(reply, refusal, needs_reasoning=needs_reasoning, needs_content=needs_content)
    return Faulty(fault, usage) if fault else reply


def _find_fault(reply: Reply, refusal: str, *, needs_reasoning: bool, needs_content: bool) -> Fault | None:
    reasoning, content, finish_reason = reply[:3]
    if finish_reason in _ABORTED:
        return fault_of_status(502, f"the server broke off, finish_reason {finish_reason}".encode())
    if finish_reason == "content_filter" or (refusal and not content):
        return Fault(CONTENT_FILTER, one_line(refusal, DETAIL) or "finish_reason content_filter")
    if finish_reason in FINISHED and not content and (needs_content or not reasoning):
        what = "only reasoning" if reasoning else "neither reasoning nor content"
        return Fault(EMPTY, f"the turn ended by itself with {what}")
    if not reasoning and not content:
        return Fault(EMPTY, f"nothing at all, finish_reason {finish_reason}")
    if needs_reasoning and not reasoning and finish_reason in FINISHED:
        return Fault(NO_REASONING, "no reasoning, neither beside the content nor in it: has the server a parser?")
    return None


def read_events(lines: Iterable[bytes]) -> Any:
    """Join the server-sent events of a streamed completion into the completion that an unstreamed request returns.

    Raises:
        ValueError: an event is not JSON, or the stream ended early.
    """
    texts: dict[str, list[str]] = {"content": [], "reasoning": [], "reasoning_content": [], "refusal": []}
    whole: dict[str, Any] = {}
    finish_reason, is_over = None, False
    for line in lines:
        if not line.startswith(b"data:"):
            continue
        payload = line[5:].strip()
        if payload == b"[DONE]":
            is_over = True
            break
        try:
            event = json.loads(payload)
            if event.get("error"):
                return event
            whole["usage"] = event.get("usage") or whole.get("usage")
            # Only one choice was requested.
            for choice in (choice for choice in event.get("choices") or () if not choice.get("index")):
                if choice.get("error"):
                    return choice
                finish_reason = choice.get("finish_reason") or finish_reason
                for name, parts in texts.items():
                    parts.append(_text((choice.get("delta") or {}).get(name)))
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"not an event of a completion ({type(error).__name__}: {error})") from error
    if not is_over and finish_reason is None:
        raise ValueError("the stream broke off")
    message = {name: "".join(parts) for name, parts in texts.items()}
    return {**whole, "choices": [{"message": message, "finish_reason": finish_reason}]}


def fault_of_status(status: int, body: bytes, retry_after: float | None = None) -> Fault:
    """Classify a status other than 200."""
    detail = f"{status}: {_excerpt(_error_message(body))}"
    if status == 429:
        # An exhausted quota does not come back during this run.
        return Fault(RATE_LIMITED, detail, status, retry_after, stops=bool(_NO_MONEY.search(detail)))
    if status >= 500 or status in (408, 409, 425):
        return Fault(SERVER_ERROR, detail, status, retry_after)
    if status in (400, 413, 422) and _TOO_LONG.search(detail):
        return Fault(TOO_LONG, detail, status)
    if status in (400, 403, 422, 451) and _FILTERED.search(detail):
        return Fault(CONTENT_FILTER, detail, status)
    if 300 <= status < 400:
        return Fault(REFUSED, f"{detail}; redirects are not followed: check base_url", status, stops=True)
    if status in _STOPS:
        return Fault(REFUSED, f"{detail}; {_STOPS[status]}", status, stops=True)
    return Fault(REFUSED, detail, status)


def _embedded_error(error: Any) -> Fault:
    """An error inside a response with status 200, which gateways send when the model behind them fails."""
    code = error.get("code") if isinstance(error, Mapping) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 502
    return fault_of_status(status, json.dumps({"error": error}).encode())


def _error_message(body: bytes) -> bytes:
    """The message and the code of an OpenAI-style error; any other body unchanged."""
    try:
        error = json.loads(body)
        error = error.get("error", error)
        if isinstance(error, Mapping):
            words = [str(error[name]) for name in ("code", "message", "detail") if error.get(name)]
            return ": ".join(words).encode("utf-8", "replace") or body
        return str(error).encode("utf-8", "replace")
    except (ValueError, AttributeError, RecursionError):
        return body


def _excerpt(body: bytes) -> str:
    return one_line(body[: 4 * DETAIL].decode("utf-8", "replace"), DETAIL) or "(nothing)"


def _malformed(detail: str) -> Faulty:
    return Faulty(Fault(MALFORMED, one_line(detail, DETAIL)))


def _text(value: Any) -> str:
    """The text of a message, which may be None or a list of parts."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if part.get("type") == "text")
    if not isinstance(value, str):
        raise ValueError(f"text expected, got {type(value).__name__}")
    return value


def _without_surrogates(text: str) -> str:
    """Join or replace lone surrogates, which JSON can hold and a UTF-8 file cannot."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _thought(message: Mapping[str, Any]) -> str:
    return _text(message.get("reasoning")) or _text(message.get("reasoning_content"))


def _usage(counts: Any, reasoning: str, content: str) -> tuple[Usage | None, bool]:
    """The server's token counts, and whether they count reasoning separately."""
    if not isinstance(counts, Mapping):
        return None, False
    prompt, completion = counts.get("prompt_tokens"), counts.get("completion_tokens")
    if not (_is_count(prompt) and _is_count(completion)):
        return None, False
    details = counts.get("completion_tokens_details")
    thought = details.get("reasoning_tokens") if isinstance(details, Mapping) else counts.get("reasoning_tokens")
    if _is_count(thought) and thought <= completion and not (thought == 0 and reasoning):
        return Usage(prompt, completion, thought), True
    characters = len(reasoning) + len(content)
    share = len(reasoning) / characters if characters else 0.0
    return Usage(prompt, completion, round(completion * share)), not reasoning


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _MOST_TOKENS
