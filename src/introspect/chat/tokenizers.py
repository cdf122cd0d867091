"""Tokenizers with a chat template that is fit for tuning on traces, and conversations as they render them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from introspect.chat.protocol import Message, join_reasoning, tag_answer
from introspect.core.errors import InputError, first_line

TemplateChoice = Literal["auto", "own", "verbatim"]

# ChatML in the form in which the Qwen3 students of the paper are tuned: assistant turns verbatim, think blocks of
# earlier turns too, no default system prompt, replies of tools grouped in one user turn.
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

# An assistant turn in the form of every training target.
_PROBE = join_reasoning("thought", tag_answer("answer"))


class Conversation(NamedTuple):
    """What is to be learnt: `messages` as asked, `target` as answered. `name` is what an error calls it."""

    name: str
    messages: Sequence[Message]
    target: str


def training_template(tokenizer: Any) -> str:
    """A ChatML template that keeps every assistant turn verbatim.

    A student tuned with it must be asked with it: set it as the tokenizer's template before drafts are made, and save
    it with the tuned student.

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
    """The tokenizer of a model folder or hub id, with a chat template fit for tuning on traces.

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
    """The tokenizer with the chat template that `load_tokenizer` describes.

    Raises:
        InputError: it has no chat template, or there is no such choice.
    """
    if choice not in get_args(TemplateChoice):
        raise InputError(f"chat_template is {choice!r}, expected one of {', '.join(get_args(TemplateChoice))}")
    if not tokenizer.chat_template:
        raise InputError(
            f"{tokenizer_name(tokenizer)}: the tokenizer has no chat template (chat_template.jinja or"
            " tokenizer_config.json)"
        )
    if choice == "verbatim" or (choice == "auto" and not _keeps_traces(tokenizer)):
        tokenizer.chat_template = training_template(tokenizer)
    return tokenizer


def end_of_turn_id(tokenizer: Any) -> int:
    """The token with which the chat template ends an assistant's turn: where a tuned student stops.

    It is often, but not always, the tokenizer's `eos_token_id`.

    Raises:
        InputError: the template can not be used for training.
    """
    _, completion = render_conversation(tokenizer, Conversation("conversation", [Message("user", "question")], _PROBE))
    last = last_visible(tokenizer, encode(tokenizer, [completion])[0])
    if last is None or last not in special_ids(tokenizer):
        raise InputError(
            f"the chat template of {tokenizer_name(tokenizer)} does not end the assistant's turn with a special token"
        )
    return last


def turn_end(tokenizer: Any) -> int | None:
    """`end_of_turn_id`, or None where the template is none that can be trained with."""
    try:
        return end_of_turn_id(tokenizer)
    except InputError:
        return None


def render_conversation(tokenizer: Any, conversation: Conversation) -> tuple[str, str]:
    """The text of the prompt and of the completion."""
    name, messages, target = conversation
    if not target:
        raise InputError(f"{name}: the target is empty")
    asked = [{"role": message.role, "content": message.content} for message in messages]
    answered = [*asked, {"role": "assistant", "content": target}]
    prompt = _apply(tokenizer, asked, add_generation_prompt=True)
    whole = _apply(tokenizer, answered, add_generation_prompt=False)
    if not whole.startswith(prompt):
        raise _refused(tokenizer, name, "renders another prompt for a generation than for a finished conversation")
    # The prompt may already hold the beginning of the target (templates that open the think block), but nothing may
    # stand between the two, and something of the target must be left to learn.
    start = whole.rfind(target)
    if not (0 <= start <= len(prompt) < start + len(target)):
        raise _refused(tokenizer, name, "changes the text of the assistant's turn")
    return prompt, whole[len(prompt) :]


def _apply(tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    import jinja2

    try:
        # `tokenize=False`: asked for tokens, transformers 5 returns a dict whose length is no number of tokens.
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False))
    except (ValueError, jinja2.TemplateError) as error:
        reason = first_line(error)
        name = tokenizer_name(tokenizer)
        raise InputError(f"{name}: the chat template can not render a conversation ({reason})") from error


def _refused(tokenizer: Any, name: str, fault: str) -> InputError:
    return InputError(
        f"{name}: the chat template of {tokenizer_name(tokenizer)} {fault}, so the trace would not be what is learnt;"
        " set chat_template=verbatim"
    )


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that the chat template has rendered, which hold every special token already."""
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return list(encoded["input_ids"])


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of all special tokens, those that were added later too."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | {*tokenizer.all_special_ids}


def last_visible(tokenizer: Any, tokens: Sequence[int]) -> int | None:
    """The last token that is not white space: templates may write a line break after the end of a turn."""
    return next((token for token in reversed(tokens) if tokenizer.decode([token]).strip()), None)


def _keeps_traces(tokenizer: Any) -> bool:
    try:
        render_conversation(tokenizer, Conversation("probe", [Message("user", "q")], _PROBE))
    except InputError:
        return False
    return True


def tokenizer_name(tokenizer: Any) -> str:
    """What messages call a tokenizer: the folder or hub id that it was loaded from."""
    return getattr(tokenizer, "name_or_path", "") or "the tokenizer"
