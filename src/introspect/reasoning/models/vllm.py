"""The chat model that vLLM runs in this process: the student, many times faster than transformers, on a GPU."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from introspect.errors import InputError
from introspect.reasoning.chat import ChatRequest, ChatResponse
from introspect.reasoning.models.loading import source_identity
from introspect.reasoning.models.openai import draw_seed
from introspect.reasoning.models.turns import Turns, check_sampling
from introspect.reasoning.supervision import TemplateChoice, load_tokenizer, turn_end


class VLLMChat:
    """A ChatModel on a `vllm.LLM` in this process, with prefix caching.

    Prompts are rendered, and answers split, as for `TransformersChat`, so both engines mean the same; their random
    numbers differ. Finish reasons: `stop`; `length` for a completion that reached `sampling.max_tokens`,
    `max_new_tokens` or the context; `context_length`, with an empty completion, for a prompt that fills the context.
    """

    def __init__(
        self,
        llm: Any,
        tokenizer: Any,
        *,
        batch_size: int = 256,
        max_new_tokens: int | None = None,
        identity: str,
    ) -> None:
        """Wrap a `vllm.LLM` and the tokenizer that its prompts are made with.

        `batch_size` is the most requests in the engine at once; `max_new_tokens` bounds every completion, whatever its
        request allows; `identity` names the weights in a store's keys. Raises InputError for a tokenizer without chat
        template.
        """
        if batch_size < 1:
            raise InputError(f"batch_size: expected at least 1, got {batch_size}")
        if max_new_tokens is not None and max_new_tokens < 1:
            raise InputError(f"max_new_tokens: expected at least 1 or null, got {max_new_tokens}")
        self._llm, self._identity = llm, identity
        self._config = llm.llm_engine.model_config
        self._turns = Turns(tokenizer, identity)
        self._ends = sorted({end for end in (tokenizer.eos_token_id, turn_end(tokenizer)) if end is not None})
        self.concurrency, self._max_new_tokens = batch_size, max_new_tokens

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        context_length: int | None = None,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        batch_size: int = 256,
        max_new_tokens: int | None = None,
        trust_remote_code: bool = False,
        chat_template: TemplateChoice = "own",
    ) -> VLLMChat:
        """Load a model folder or hub id.

        `context_length` bounds prompt and completion together, None takes the model's; `tensor_parallel_size` is the
        number of GPUs, `gpu_memory_utilization` the share of their memory that vLLM takes; see `load_tokenizer` for
        the chat template. Raises InputError where vLLM is not installed or cannot load the model.
        """
        try:
            from vllm import LLM
        except ImportError as error:
            raise InputError(
                "engine=vllm needs vLLM, which is not installed here: it wants an environment of its own, see"
                f" CONTRIBUTING.md ({error})"
            ) from error
        tokenizer = load_tokenizer(
            name_or_path, revision=revision, trust_remote_code=trust_remote_code, chat_template=chat_template
        )
        try:
            llm = LLM(
                model=str(name_or_path),
                revision=revision,
                tokenizer_revision=revision,
                dtype=dtype,
                max_model_len=context_length,
                tensor_parallel_size=tensor_parallel_size,
                gpu_memory_utilization=gpu_memory_utilization,
                max_num_seqs=batch_size,
                enable_prefix_caching=True,
                # The model's own generation config would change the sampling in silence.
                generation_config="vllm",
                trust_remote_code=trust_remote_code,
            )
        except (ValueError, OSError, RuntimeError) as error:
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(f"{name_or_path}: vLLM cannot load it: {line}") from error
        config = SimpleNamespace(config=llm.llm_engine.model_config.hf_config)
        identity = source_identity(name_or_path, config, revision)
        return cls(llm, tokenizer, batch_size=batch_size, max_new_tokens=max_new_tokens, identity=identity)

    @property
    def identity(self) -> Mapping[str, str]:
        """Weights, chat template, number format, bounds and engine."""
        from vllm import __version__

        return {
            "model": self._identity,
            "template": self._turns.digest,
            "dtype": str(self._config.dtype).removeprefix("torch."),
            "max_new_tokens": str(self._max_new_tokens),
            "context_length": str(self._config.max_model_len),
            "engine": f"vllm {__version__}",
        }

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse]:
        """Yield one response per request, as each is finished; requests are taken as places become free.

        Raises InputError for sampling settings out of range, and for messages that the chat template refuses.
        """
        engine, numbers = self._llm.llm_engine, map(str, count())
        remaining = iter(requests)
        under_way: dict[str, tuple[ChatRequest, int]] = {}
        try:
            while True:
                fresh = list(islice(remaining, self.concurrency - len(under_way)))
                for request, ids in zip(fresh, self._turns.render(fresh) if fresh else (), strict=True):
                    limit = self._limit(request, len(ids))
                    if limit < 1:
                        yield self._turns.response(request.id, len(ids), (), stopped=False)
                        continue
                    number = next(numbers)
                    engine.add_request(number, {"prompt_token_ids": list(ids)}, self._params(request, limit))
                    under_way[number] = (request, len(ids))
                if not under_way:
                    if fresh:
                        continue
                    return
                for output in engine.step():
                    if output.finished:
                        yield self._response(output, *under_way.pop(output.request_id))
        finally:
            if under_way:
                engine.abort_request(list(under_way))

    def close(self) -> None:
        """Let go of the model and of the GPU's memory. It cannot be used afterwards."""
        import torch

        del self._llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _limit(self, request: ChatRequest, prompt_tokens: int) -> int:
        room = self._config.max_model_len - prompt_tokens
        return min(bound for bound in (request.sampling.max_tokens, self._max_new_tokens, room) if bound is not None)

    def _params(self, request: ChatRequest, limit: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        check_sampling(sampling)
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or -1,
            max_tokens=limit,
            seed=draw_seed(sampling.seed, request.sample),
            stop_token_ids=self._ends,
            detokenize=False,  # the turn is read from its tokens, here
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _response(self, output: Any, request: ChatRequest, prompt_tokens: int) -> ChatResponse:
        completion = output.outputs[0]
        ids = tuple(completion.token_ids)
        return self._turns.response(request.id, prompt_tokens, ids, stopped=completion.finish_reason == "stop")
