"""Chat templates: requests and conversations to text or token ids, and token ids to responses."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from introspect.chat.protocol import (
    THINK_CLOSE,
    THINK_OPEN,
    ChatRequest,
    ChatResponse,
    Message,
    join_reasoning,
    split_reasoning,
    tag_answer,
)
from introspect.chat.usage import Usage
from introspect.core.errors import InputError, first_line

TemplateChoice = Literal["auto", "own", "verbatim"]

# ChatML as the paper tunes its Qwen3 students: all assistant turns stay verbatim, with their think blocks, there is no
# default system prompt, and consecutive replies of tools form one user turn.
_VERBATIM_CHATML = """\
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
_TURN_START, _TURN_END = "<|im_start|>", "<|im_end|>"

# An assistant turn in the form of every training target, to try a template with.
_QUESTION = [Message("user", "question")]
_TARGET = join_reasoning("thought", tag_answer("answer"))


class Conversation(NamedTuple):
    """A conversation to train on.

    Attributes:
        name: of the conversation, in errors.
        messages: the turns before the target.
        target: the assistant turn to learn.
    """

    name: str
    messages: Sequence[Message]
    target: str


class ChatTemplate:
    """Renders requests with a tokenizer's chat template, and parses what a model generates after them.

    Args:
        tokenizer: a Hugging Face tokenizer.
        name: of the model, in errors.

    Attributes:
        text: the Jinja source of the template.

    Raises:
        InputError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        _require_template(tokenizer, name)
        self._tokenizer, self._name = tokenizer, name
        self.text = str(tokenizer.get_chat_template())
        self._opened = self._opened_block()

    @property
    def digest(self) -> str:
        """SHA-256 of the template, for the identity of a model."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def render(self, requests: Sequence[ChatRequest]) -> list[list[int]]:
        """Render the prompts of requests to token ids, up to and including what opens the assistant's turn.

        Raises:
            InputError: the chat template refuses the messages.
        """
        conversations = [_plain(request.messages) for request in requests]
        # Since transformers 5 the default is a mapping, whose len() is the number of its keys.
        options = {"add_generation_prompt": True, "return_dict": False}
        return list(_apply(self._tokenizer, self._name, conversations, **options))

    def response(self, request_id: str, prompt_tokens: int, ids: Sequence[int], *, stopped: bool) -> ChatResponse:
        """Parse a completion.

        Args:
            request_id: id of the request.
            prompt_tokens: length of its prompt.
            ids: token ids of the completion.
            stopped: whether the last of them is the stop token.
        """
        body = ids[:-1] if stopped else ids
        text = self._opened + self._decode(body)
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
        """The number of tokens up to the end of the last `</think>`, which may be one token or several."""

        def closes(length: int) -> int:
            return self._decode(ids[:length]).count(THINK_CLOSE)

        return bisect_left(range(len(ids)), closes(len(ids)), key=closes)

    def _decode(self, ids: Sequence[int]) -> str:
        # Special tokens stay: where the think tags are special, they are what splits the turn.
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _opened_block(self) -> str:
        """`<think>` and what follows it, if the generation prompt opens the think block itself; otherwise ""."""
        prompt, asked = (
            _text(self._tokenizer, self._name, _QUESTION, add_generation_prompt=opening) for opening in (True, False)
        )
        _, opened, tail = prompt.removeprefix(asked).rpartition(THINK_OPEN)
        return opened + tail if opened and THINK_CLOSE not in tail else ""


def training_template(tokenizer: Any) -> str:
    """Return a ChatML template that keeps every assistant turn verbatim.

    A student that is tuned with it must generate with it: set it as the tokenizer's template before drafts are made,
    and save it with the tuned student.

    Raises:
        InputError: the tokenizer has no ChatML tokens.
    """
    vocabulary = tokenizer.get_vocab()
    if missing := [token for token in (_TURN_START, _TURN_END) if token not in vocabulary]:
        raise InputError(f"{tokenizer_name(tokenizer)}: no ChatML tokenizer: {missing[0]} is not in its vocabulary")
    return _VERBATIM_CHATML


def load_tokenizer(
    source: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    chat_template: TemplateChoice = "auto",
) -> Any:
    """Load the tokenizer of a model folder or hub id, with a chat template that keeps traces as they are.

    Args:
        source: a model folder or a hub id.
        revision: branch, tag or commit on the hub.
        trust_remote_code: whether code that comes with the tokenizer may run.
        chat_template: `own` keeps the tokenizer's template; `verbatim` sets `training_template`; `auto` sets it only
            where the tokenizer's own would change a trace.

    Raises:
        InputError: there is no such folder or hub id, it holds no tokenizer, or the tokenizer has no chat template.
    """
    from transformers import AutoTokenizer

    path = Path(source).expanduser()
    if not path.is_dir() and (path.is_absolute() or str(source).startswith((".", "~")) or len(path.parts) > 2):
        raise InputError(f"{source}: no such model folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        kind = "folder" if path.is_dir() else "hub id, and no folder of that name"
        reason = first_line(error)
        raise InputError(f"{source}: no tokenizer could be loaded from this {kind} ({reason})") from error
    return with_template(tokenizer, chat_template)


def with_template(tokenizer: Any, choice: TemplateChoice) -> Any:
    """Set the chat template that `load_tokenizer` describes, and return the tokenizer.

    Raises:
        InputError: it has no chat template, or there is no such choice.
    """
    if choice not in get_args(TemplateChoice):
        raise InputError(f"chat_template is {choice!r}, expected one of {', '.join(get_args(TemplateChoice))}")
    _require_template(tokenizer, tokenizer_name(tokenizer))
    if choice == "verbatim" or (choice == "auto" and not _keeps_traces(tokenizer)):
        tokenizer.chat_template = training_template(tokenizer)
    return tokenizer


def pad_id(tokenizer: Any) -> int:
    """Return the token that fills short sequences up: the padding token, else the end-of-sequence token."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def end_of_turn_id(tokenizer: Any) -> int:
    """Return the token with which the chat template ends an assistant's turn: where a tuned student stops.

    It is often, but not always, the tokenizer's `eos_token_id`.

    Raises:
        InputError: the template cannot be used for training.
    """
    _, completion = render_conversation(tokenizer, Conversation("conversation", _QUESTION, _TARGET))
    last = last_visible(tokenizer, encode(tokenizer, [completion])[0])
    if last is None or last not in special_ids(tokenizer):
        raise InputError(
            f"the chat template of {tokenizer_name(tokenizer)} does not end the assistant's turn with a special token"
        )
    return last


def stop_ids(tokenizer: Any) -> set[int]:
    """Return the tokens that end a completion: the tokenizer's end token and the end of the template's turns."""
    try:
        ends = {tokenizer.eos_token_id, end_of_turn_id(tokenizer)}
    except InputError:  # a template that no trace can be trained with
        ends = {tokenizer.eos_token_id}
    return ends - {None}


def render_conversation(tokenizer: Any, conversation: Conversation) -> tuple[str, str]:
    """Render a conversation to the text of its prompt and of its completion.

    Raises:
        InputError: the template would change the target.
    """
    name, messages, target = conversation
    if not target:
        raise InputError(f"{name}: the target is empty")
    model = tokenizer_name(tokenizer)
    prompt = _text(tokenizer, model, messages, add_generation_prompt=True)
    whole = _text(tokenizer, model, [*messages, Message("assistant", target)], add_generation_prompt=False)
    # The prompt may already hold the beginning of the target (templates that open the think block), but nothing may
    # stand between the two, and something of the target must be left to learn.
    start = whole.rfind(target)
    if not whole.startswith(prompt):
        fault = "renders another prompt for a generation than for a finished conversation"
    elif not (0 <= start <= len(prompt) < start + len(target)):
        fault = "changes the text of the assistant's turn"
    else:
        return prompt, whole[len(prompt) :]
    raise InputError(
        f"{name}: the chat template of {model} {fault}, so the trace would not be what is learnt;"
        " set chat_template=verbatim"
    )


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize texts that the chat template has rendered, which hold every special token already."""
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return list(encoded["input_ids"])


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of all special tokens, including those that were added later."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | {*tokenizer.all_special_ids}


def last_visible(tokenizer: Any, tokens: Sequence[int]) -> int | None:
    """Return the last token that is not white space: templates may write a line break after the end of a turn."""
    return next((token for token in reversed(tokens) if tokenizer.decode([token]).strip()), None)


def tokenizer_name(tokenizer: Any) -> str:
    """Return the folder or hub id that a tokenizer was loaded from, for messages."""
    return getattr(tokenizer, "name_or_path", "") or "the tokenizer"


def _keeps_traces(tokenizer: Any) -> bool:
    try:
        render_conversation(tokenizer, Conversation("probe", _QUESTION, _TARGET))
    except InputError:
        return False
    return True


def _require_template(tokenizer: Any, name: str) -> None:
    if not tokenizer.chat_template:
        raise InputError(f"{name}: the tokenizer has no chat template (chat_template.jinja or tokenizer_config.json)")


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _text(tokenizer: Any, name: str, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    options = {"add_generation_prompt": add_generation_prompt, "tokenize": False}
    return str(_apply(tokenizer, name, _plain(messages), **options))


def _apply(tokenizer: Any, name: str, messages: Sequence[Any], **options: bool) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, **options)
    except (ValueError, TemplateError) as error:
        raise InputError(f"{name}: the chat template refuses the messages: {first_line(error)}") from error
