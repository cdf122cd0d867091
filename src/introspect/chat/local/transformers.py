"""The chat model on any causal language model of transformers in this process, such as the student in training."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from introspect.chat.local.decoding import Completion, Decoder, Prompt
from introspect.chat.local.loading import load_pretrained, source_identity, weights_digest
from introspect.chat.local.sampling import check_sampling
from introspect.chat.protocol import ChatModel, ChatRequest, ChatResponse
from introspect.chat.templates import ChatTemplate, TemplateChoice, stop_ids, with_template
from introspect.core.errors import InputError
from introspect.core.inference import evaluating
from introspect.core.seeds import row_seed

# Batches of requests that are rendered and sorted by length at a time.
WINDOW = 16


class Drawn(NamedTuple):
    """A response and its tokens, which its text does not determine: a tokenizer may split the same text differently.

    Attributes:
        response: the response.
        prompt_ids: tokens of the prompt.
        completion_ids: tokens that were drawn, including the one that ended the turn.
    """

    response: ChatResponse
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


class TransformersChat(ChatModel):
    """A ChatModel on a transformers model in memory.

    A response depends on the weights, the prompt and its sampling settings, not on the rest of the batch or on earlier
    requests (up to rounding). Its finish reason is `stop`; `length` for a completion that reached
    `sampling.max_tokens`, `max_new_tokens` or the model's context; or `context_length`, with an empty completion, for a
    prompt that fills the context by itself.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        batch_size: rows that are decoded together at most.
        max_new_tokens: limit of every completion, whatever its request allows; None leaves it to the request.
        max_length: limit of prompt and completion together, if it is below the model's context.
        identity: name of the weights in a store's keys; None computes their digest whenever it is needed.

    Raises:
        InputError: a limit is below 1, or the tokenizer has no chat template.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int = 32,
        max_new_tokens: int | None = None,
        max_length: int | None = None,
        identity: str | None = None,
    ) -> None:
        limits = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "max_length": max_length}
        for option, limit in limits.items():
            if limit is not None and limit < 1:
                raise InputError(f"{option}: expected at least 1, got {limit}")
        self._name = tokenizer.name_or_path or type(model).__name__
        self._model, self._tokenizer = model, tokenizer
        self._batch_size, self._max_new_tokens, self._identity = batch_size, max_new_tokens, identity
        self._max_length = max_length
        self._template = ChatTemplate(tokenizer, self._name)
        configured = model.generation_config.eos_token_id if model.generation_config else None
        ends = configured if isinstance(configured, list | tuple) else [configured]
        self._stop_ids = {*ends, *stop_ids(tokenizer)} - {None}
        # The iterators that decode now, and what restores the model after the last of them.
        self._decoding, self._restore = 0, ExitStack()

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
        """Load a model folder or hub id.

        Args:
            name_or_path: a model folder or a hub id.
            revision: see `load_pretrained`, as are the next two.
            dtype: of the weights.
            device: of the weights.
            batch_size: see `TransformersChat`.
            max_new_tokens: see `TransformersChat`.
            attn_implementation: see `load_pretrained`.
            trust_remote_code: see `load_pretrained`.
            chat_template: see `load_tokenizer`.

        Raises:
            InputError: the model cannot be loaded, or its tokenizer has no chat template.
        """
        model, tokenizer = load_pretrained(
            name_or_path,
            revision=revision,
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
        tokenizer = with_template(tokenizer, chat_template)
        identity = source_identity(name_or_path, model.config, revision)
        return cls(model, tokenizer, batch_size=batch_size, max_new_tokens=max_new_tokens, identity=identity)

    @property
    def identity(self) -> Mapping[str, str]:
        """Weights, chat template, number format, limits and engine; reads all weights if they have no name."""
        from transformers import __version__

        weights = self._identity or f"sha256:{weights_digest(self._model, self._tokenizer)}"
        bounds = {} if self._max_length is None else {"max_length": str(self._max_length)}
        return {
            "model": weights,
            "template": self._template.digest,
            "stop": ",".join(map(str, sorted(self._stop_ids))),
            "dtype": self._computes_in,
            "max_new_tokens": str(self._max_new_tokens),
            **bounds,
            "engine": f"transformers {__version__}",
        }

    @property
    def _computes_in(self) -> str:
        """The number format of the weights, and that of autocast where it is enabled."""
        kind = self._model.device.type
        formats = [self._model.dtype]
        if torch.is_autocast_enabled(kind):
            formats.append(torch.get_autocast_dtype(kind))
        return " in ".join(str(format).removeprefix("torch.") for format in formats)

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse]:
        """Yield one response per request, as each is finished.

        The model is in evaluation mode until the last response is taken or the iterator is closed.

        Raises:
            InputError: sampling settings are out of range, the chat template refuses the messages, or nothing limits
                the length of a completion.
        """
        with closing(self.draw(requests)) as drawn:
            for response, *_ in drawn:
                yield response

    def draw(self, requests: Iterable[ChatRequest]) -> Generator[Drawn, None, None]:
        """Generate responses with their tokens, which a policy gradient needs."""
        pad_id = self._tokenizer.pad_token_id or 0
        decoder = Decoder(self._model, stop_ids=self._stop_ids, pad_id=pad_id, batch_size=self._batch_size)
        with self._evaluation():
            for completion in decoder.decode(self._prompts(requests)):
                yield Drawn(self._response(completion), completion.prompt.ids, tuple(completion.ids))

    def _prompts(self, requests: Iterable[ChatRequest]) -> Iterator[Prompt]:
        """Render requests, the longest first within each window."""
        remaining = iter(requests)
        while window := list(islice(remaining, WINDOW * self._batch_size)):
            pairs = list(zip(window, self._template.render(window), strict=True))
            for request, ids in sorted(pairs, key=lambda pair: -len(pair[1])):
                yield self._prompt(request, tuple(ids))

    def _prompt(self, request: ChatRequest, ids: tuple[int, ...]) -> Prompt:
        sampling = request.sampling
        check_sampling(sampling)
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        bounds = [bound for bound in (context, self._max_length) if bound is not None]
        room = min(bounds) - len(ids) if bounds else None
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
        prompt = completion.prompt
        return self._template.response(prompt.tag.id, len(prompt.ids), completion.ids, stopped=completion.stopped)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Keep the model in evaluation mode; if iterators overlap, until the last of them ends."""
        if not self._decoding:
            self._restore.enter_context(_in_evaluation(self._model))
        self._decoding += 1
        try:
            yield
        finally:
            self._decoding -= 1
            if not self._decoding:
                self._restore.close()


@contextmanager
def _in_evaluation(model: Any) -> Iterator[None]:
    """Put a model in evaluation mode with an attention that takes any mask, and restore both afterwards."""
    attention = getattr(model.config, "_attn_implementation", None)
    other = attention not in ("sdpa", "eager", None)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    try:
        if other:
            base.set_attn_implementation("sdpa")
        with evaluating(model):
            yield
    finally:
        if other:
            base.set_attn_implementation(attention)
