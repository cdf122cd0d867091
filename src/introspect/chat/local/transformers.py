"""The chat model that runs here: any causal language model of transformers, and the student while it is trained."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from introspect.chat.local.decoding import Completion, Decoder, Prompt
from introspect.chat.local.loading import load_pretrained, source_identity, weights_digest
from introspect.chat.protocol import ChatModel, ChatRequest, ChatResponse
from introspect.chat.templates import Turns, check_sampling
from introspect.chat.tokenizers import TemplateChoice, turn_end, with_template
from introspect.core.errors import InputError
from introspect.core.inference import evaluating
from introspect.core.seeds import row_seed

# Requests that are rendered and sorted by length at a time, in batches.
WINDOW = 16


class Drawn(NamedTuple):
    """A response and the tokens it was made of: what was read, and what was drawn, with the token that ended the turn.

    The text of a response does not tell its tokens: another split of the same text may be what a tokenizer prefers.
    """

    response: ChatResponse
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


class TransformersChat(ChatModel):
    """A ChatModel on a transformers model in memory.

    A response depends on the weights, the prompt and its sampling settings, not on what else is in the batch or was
    answered before (up to rounding). Finish reasons: `stop`; `length` for a completion that reached
    `sampling.max_tokens`, `max_new_tokens` or the model's context; `context_length`, with an empty completion, for a
    prompt that fills the context by itself.
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
        """Wrap a causal language model and its tokenizer.

        `batch_size` is the most rows decoded together; `max_new_tokens` bounds every completion, whatever its request
        allows, and `max_length` prompt and completion together, as if the context were no longer;
        `identity` names the weights in a store's keys, None takes a digest of them whenever it is asked for.

        Raises InputError for a tokenizer without chat template.
        """
        if batch_size < 1:
            raise InputError(f"batch_size: expected at least 1, got {batch_size}")
        if max_new_tokens is not None and max_new_tokens < 1:
            raise InputError(f"max_new_tokens: expected at least 1 or null, got {max_new_tokens}")
        if max_length is not None and max_length < 1:
            raise InputError(f"max_length: expected at least 1 or null, got {max_length}")
        self._name = tokenizer.name_or_path or type(model).__name__
        self._model, self._tokenizer = model, tokenizer
        self._batch_size, self._max_new_tokens, self._identity = batch_size, max_new_tokens, identity
        self._max_length = max_length
        self._turns = Turns(tokenizer, self._name)
        self._stop_ids = _stop_ids(model, tokenizer)

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
        identity = source_identity(name_or_path, model.config, revision)
        return cls(model, tokenizer, batch_size=batch_size, max_new_tokens=max_new_tokens, identity=identity)

    @property
    def identity(self) -> Mapping[str, str]:
        """Weights, chat template, number format, cap and engine. Costs a pass over the weights if they have no name."""
        from transformers import __version__

        weights = self._identity or f"sha256:{weights_digest(self._model, self._tokenizer)}"
        bounds = {} if self._max_length is None else {"max_length": str(self._max_length)}
        return {
            "model": weights,
            "template": self._turns.digest,
            "stop": ",".join(map(str, sorted(self._stop_ids))),
            "dtype": self._computes_in,
            "max_new_tokens": str(self._max_new_tokens),
            **bounds,
            "engine": f"transformers {__version__}",
        }

    @property
    def _computes_in(self) -> str:
        """The number format of the weights, and the one that autocast has them computed in, where it is on."""
        kind = self._model.device.type
        formats = [self._model.dtype]
        if torch.is_autocast_enabled(kind):
            formats.append(torch.get_autocast_dtype(kind))
        return " in ".join(str(format).removeprefix("torch.") for format in formats)

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse]:
        """Yield one response per request, as each is finished.

        The model is in evaluation mode until the last response is taken, or the iterator is closed. Raises InputError
        for sampling settings out of range, for messages that the chat template refuses, and where nothing bounds the
        length of a completion.
        """
        with closing(self.draw(requests)) as drawn:
            for response, *_ in drawn:
                yield response

    def draw(self, requests: Iterable[ChatRequest]) -> Generator[Drawn, None, None]:
        """`generate`, with the tokens of each response: what a policy gradient must be taken of."""
        pad_id = self._tokenizer.pad_token_id or 0
        decoder = Decoder(self._model, stop_ids=self._stop_ids, pad_id=pad_id, batch_size=self._batch_size)
        with _evaluating(self._model):
            for completion in decoder.decode(self._prompts(requests)):
                yield Drawn(self._response(completion), completion.prompt.ids, tuple(completion.ids))

    def _prompts(self, requests: Iterable[ChatRequest]) -> Iterator[Prompt]:
        """Rendered requests, longest first within each window."""
        remaining = iter(requests)
        while window := list(islice(remaining, WINDOW * self._batch_size)):
            pairs = list(zip(window, self._turns.render(window), strict=True))
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
        return self._turns.response(prompt.tag.id, len(prompt.ids), completion.ids, stopped=completion.stopped)


def _stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """Whatever ends a turn: the generation config's end tokens, the tokenizer's, and the chat template's."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ends = configured if isinstance(configured, list | tuple) else [configured]
    return {end for end in (*ends, tokenizer.eos_token_id, turn_end(tokenizer)) if end is not None}


# The models that are decoded with now: by how many iterators, and what puts each back as it was.
_decoding: WeakKeyDictionary[Any, tuple[int, ExitStack]] = WeakKeyDictionary()


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Keep a model in evaluation; where several iterators overlap, until the last of them ends."""
    users, undo = _decoding.get(model) or (0, ExitStack())
    if not users:
        undo.enter_context(_in_evaluation(model))
    _decoding[model] = users + 1, undo
    try:
        yield
    finally:
        users = _decoding.pop(model)[0] - 1
        if users:
            _decoding[model] = users, undo
        else:
            undo.close()


@contextmanager
def _in_evaluation(model: Any) -> Iterator[None]:
    """Evaluation mode with an attention that takes any mask, and afterwards everything as it was."""
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
