"""The chat model that runs here: any causal language model of transformers, and the student while it is trained."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from introspect.errors import InputError
from introspect.reasoning.chat import (
    THINK_CLOSE,
    THINK_OPEN,
    ChatRequest,
    ChatResponse,
    Sampling,
    Usage,
    split_reasoning,
)
from introspect.reasoning.models.decoding import Completion, Decoder, Prompt
from introspect.reasoning.models.loading import load_pretrained, source_identity, weights_digest
from introspect.reasoning.models.sampling import row_seed
from introspect.reasoning.supervision import TemplateChoice, turn_end, with_template

# Requests that are rendered and sorted by length at a time, in batches.
WINDOW = 16


class TransformersChat:
    """A ChatModel on a transformers model in memory.

    A response depends on the weights, the prompt and its sampling settings, not on what else is in the batch (up to
    rounding). Finish reasons: `stop`; `length` for a completion that reached `sampling.max_tokens`, `max_new_tokens`
    or the model's context; `context_length`, with an empty completion, for a prompt that fills the context by itself.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int = 32,
        max_new_tokens: int | None = None,
        identity: str | None = None,
    ) -> None:
        """Wrap a causal language model and its tokenizer.

        `batch_size` is the most rows decoded together; `max_new_tokens` bounds every completion, whatever its request
        allows; `identity` names the weights in a store's keys, None takes a digest of them whenever it is asked for.
        Raises InputError for a tokenizer without chat template.
        """
        if batch_size < 1:
            raise InputError(f"batch_size: expected at least 1, got {batch_size}")
        if max_new_tokens is not None and max_new_tokens < 1:
            raise InputError(f"max_new_tokens: expected at least 1 or null, got {max_new_tokens}")
        self._name = tokenizer.name_or_path or type(model).__name__
        self._model, self._tokenizer = model, tokenizer
        self._batch_size, self._max_new_tokens, self._identity = batch_size, max_new_tokens, identity
        self._template = _chat_template(tokenizer, self._name)
        self._stop_ids = _stop_ids(model, tokenizer)
        self._opened = _opened_block(tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        batch_size: int = 32,
        max_new_tokens: int | None = None,
        attn_implementation: str = "sdpa",
        trust_remote_code: bool = False,
        chat_template: TemplateChoice = "own",
    ) -> TransformersChat:
        """Load a model folder or hub id; see `load_pretrained` and `with_template` for the options and the errors."""
        model, tokenizer = load_pretrained(
            name_or_path,
            revision=revision,
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
        tokenizer = with_template(tokenizer, chat_template)
        identity = source_identity(name_or_path, model, revision)
        return cls(model, tokenizer, batch_size=batch_size, max_new_tokens=max_new_tokens, identity=identity)

    @property
    def identity(self) -> Mapping[str, str]:
        """Weights, chat template, number format, cap and engine. Costs a pass over the weights if they have no name."""
        from transformers import __version__

        weights = self._identity or f"sha256:{weights_digest(self._model, self._tokenizer)}"
        return {
            "model": weights,
            "template": hashlib.sha256(self._template.encode()).hexdigest(),
            "stop": ",".join(map(str, sorted(self._stop_ids))),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "max_new_tokens": str(self._max_new_tokens),
            "engine": f"transformers {__version__}",
        }

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse]:
        """Yield one response per request, as each is finished.

        The model is in evaluation mode until the last response is taken, or the iterator is closed. Raises InputError
        for sampling settings out of range, for messages that the chat template refuses, and where nothing bounds the
        length of a completion.
        """
        pad_id = self._tokenizer.pad_token_id or 0
        decoder = Decoder(self._model, stop_ids=self._stop_ids, pad_id=pad_id, batch_size=self._batch_size)
        with _evaluating(self._model):
            for completion in decoder.decode(self._prompts(requests)):
                yield self._response(completion)

    def _prompts(self, requests: Iterable[ChatRequest]) -> Iterator[Prompt]:
        """Rendered requests, longest first within each window."""
        remaining = iter(requests)
        while window := list(islice(remaining, WINDOW * self._batch_size)):
            pairs = list(zip(window, self._render(window), strict=True))
            for request, ids in sorted(pairs, key=lambda pair: -len(pair[1])):
                yield self._prompt(request, tuple(ids))

    def _render(self, requests: Sequence[ChatRequest]) -> list[list[int]]:
        """Prompt token ids, up to and including what opens the assistant's turn."""
        from jinja2 import TemplateError

        conversations = [[{"role": m.role, "content": m.content} for m in request.messages] for request in requests]
        try:
            # Since transformers 5 the default is a mapping, of which len() is the number of its keys.
            rendered = self._tokenizer.apply_chat_template(conversations, add_generation_prompt=True, return_dict=False)
        except TemplateError as error:
            raise InputError(f"{self._name}: the chat template refuses the messages: {error}") from error
        return list(rendered)

    def _prompt(self, request: ChatRequest, ids: tuple[int, ...]) -> Prompt:
        sampling = request.sampling
        _check(sampling)
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        room = None if context is None else context - len(ids)
        limits = [limit for limit in (sampling.max_tokens, self._max_new_tokens, room) if limit is not None]
        if not limits:
            raise InputError(f"{self._name}: the model states no context length; set max_new_tokens")
        return Prompt(
            tag=request,
            ids=ids,
            limit=min(limits),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=row_seed(sampling.seed, request.sample, ids),
        )

    def _response(self, completion: Completion) -> ChatResponse:
        prompt, ids = completion.prompt, completion.ids
        body = ids[:-1] if completion.stopped else ids
        text = self._opened + self._text(body)
        reasoning, content, closed = split_reasoning(text)
        if not closed:
            reasoning_tokens = len(body)
        elif content == text.strip():
            reasoning_tokens = 0
        else:
            reasoning_tokens = self._tokens_through_last_close(body)
        return ChatResponse(
            request_id=prompt.tag.id,
            reasoning=reasoning,
            content=content,
            finish_reason="stop" if completion.stopped else "length" if ids else "context_length",
            usage=Usage(len(prompt.ids), len(ids), reasoning_tokens),
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


def _check(sampling: Sampling) -> None:
    """InputError for sampling settings out of range."""
    if not sampling.temperature >= 0:
        raise InputError(f"sampling.temperature: expected 0 or more, got {sampling.temperature}")
    if not 0 < sampling.top_p <= 1:
        raise InputError(f"sampling.top_p: expected more than 0 and at most 1, got {sampling.top_p}")
    if sampling.top_k < 0:
        raise InputError(f"sampling.top_k: expected 0 (all tokens) or more, got {sampling.top_k}")
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise InputError(f"sampling.max_tokens: expected at least 1 or null, got {sampling.max_tokens}")


def _chat_template(tokenizer: Any, name: str) -> str:
    if not tokenizer.chat_template:
        raise InputError(f"{name}: the tokenizer has no chat template; expected a chat_template.jinja beside it")
    return str(tokenizer.get_chat_template())


def _stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """Whatever ends a turn: the generation config's end tokens, the tokenizer's, and the chat template's."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ends = configured if isinstance(configured, list | tuple) else [configured]
    return {end for end in (*ends, tokenizer.eos_token_id, turn_end(tokenizer)) if end is not None}


def _opened_block(tokenizer: Any) -> str:
    """`<think>` and what follows it, where the template's generation prompt opens the block itself; else ""."""
    question = [{"role": "user", "content": "?"}]
    prompt, asked = (
        tokenizer.apply_chat_template(question, add_generation_prompt=opening, tokenize=False)
        for opening in (True, False)
    )
    _, opened, tail = prompt.removeprefix(asked).rpartition(THINK_OPEN)
    return opened + tail if opened and THINK_CLOSE not in tail else ""


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode, and afterwards each module's own mode as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
