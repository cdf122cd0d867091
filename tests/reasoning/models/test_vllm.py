"""vLLM in this process. Where it is not installed, a small engine with its documented interface stands in its place."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from introspect.errors import InputError
from introspect.reasoning.chat import ChatRequest, ChatResponse, Message, Sampling
from introspect.reasoning.models.openai import draw_seed
from introspect.reasoning.models.vllm import VLLMChat
from tests.reasoning.tiny import tiny_folder, tiny_tokenizer


class Engine:
    """Answers `say` token by token: a request ends when its words do, or at its limit; one step is one token each."""

    def __init__(self, tokenizer: Any, say: str, context: int) -> None:
        self.tokens = [*tokenizer.encode(say, add_special_tokens=False), tokenizer.eos_token_id]
        self.model_config = types.SimpleNamespace(
            max_model_len=context, dtype="torch.bfloat16", hf_config=types.SimpleNamespace(_commit_hash=None)
        )
        self.running: dict[str, list[Any]] = {}
        self.most = 0
        self.params: list[Any] = []
        self.aborted: list[str] = []

    def add_request(self, request_id: str, prompt: Any, params: Any) -> None:
        assert request_id not in self.running
        assert all(type(token) is int for token in prompt["prompt_token_ids"])
        assert len(prompt["prompt_token_ids"]) + params.max_tokens <= self.model_config.max_model_len
        self.running[request_id] = [params, 0]
        self.params.append(params)
        self.most = max(self.most, len(self.running))

    def step(self) -> list[Any]:
        finished = []
        for request_id, state in list(self.running.items()):
            state[1] += 1
            tokens = self.tokens[: state[1]]
            reason = "stop" if tokens[-1] in state[0].stop_token_ids else "length"
            if reason == "stop" or state[1] == state[0].max_tokens:
                completion = types.SimpleNamespace(token_ids=tokens, finish_reason=reason, text="")
                finished.append(types.SimpleNamespace(request_id=request_id, finished=True, outputs=[completion]))
                del self.running[request_id]
        return finished

    def abort_request(self, request_ids: list[str]) -> None:
        self.aborted += request_ids


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A module `vllm`; what its LLM was given."""
    given: dict[str, Any] = {}

    def llm(**options: Any) -> Any:
        given.update(options)
        tokenizer = tiny_tokenizer(tags=True)
        return types.SimpleNamespace(llm_engine=Engine(tokenizer, "<think>so</think>yes", 512))

    module, params = types.ModuleType("vllm"), types.ModuleType("vllm.sampling_params")
    module.__version__ = "0.0.test"  # type: ignore[attr-defined]
    module.LLM = llm  # type: ignore[attr-defined]
    module.SamplingParams = types.SimpleNamespace  # type: ignore[attr-defined]
    params.RequestOutputKind = types.SimpleNamespace(FINAL_ONLY="final")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    return given


def request(number: int, **sampling: Any) -> ChatRequest:
    return ChatRequest(str(number), (Message("user", f"question {number}"),), Sampling(**sampling), sample=number)


def chat(say: str = "<think>so</think>yes", *, context: int = 512, **options: Any) -> tuple[VLLMChat, Engine]:
    tokenizer = tiny_tokenizer(tags=True)
    engine = Engine(tokenizer, say, context)
    return VLLMChat(types.SimpleNamespace(llm_engine=engine), tokenizer, identity="m", **options), engine


@pytest.mark.usefixtures("installed")
def test_answers_are_split_and_counted() -> None:
    model, engine = chat(batch_size=3)
    replies = {reply.request_id: reply for reply in model.generate(request(n) for n in range(10))}
    assert replies.keys() == {str(n) for n in range(10)}
    reply = replies["4"]
    assert (reply.reasoning, reply.content, reply.finish_reason) == ("so", "yes", "stop")
    # <think>, s, o, </think>; y, e, s, end of turn
    assert (reply.usage.completion_tokens, reply.usage.reasoning_tokens) == (8, 4)
    assert reply.usage.prompt_tokens > 10
    assert engine.most == 3


@pytest.mark.usefixtures("installed")
def test_sampling_reaches_the_engine() -> None:
    model, engine = chat()
    list(
        model.generate(
            [request(0, temperature=0.1, top_p=0.5, top_k=7, seed=9, max_tokens=5), request(3, top_k=0, seed=9)]
        )
    )
    first, second = engine.params
    assert (first.temperature, first.top_p, first.top_k, first.seed, first.max_tokens) == (0.1, 0.5, 7, 9, 5)
    assert (second.top_k, second.seed) == (-1, draw_seed(9, 3))
    assert second.max_tokens > 400  # what the context leaves
    assert not first.detokenize
    with pytest.raises(InputError, match=r"sampling.top_p"):
        list(model.generate([request(0, top_p=0.0)]))


@pytest.mark.usefixtures("installed")
def test_limits_and_prompts_that_fill_the_context() -> None:
    model, _ = chat(max_new_tokens=2)
    [reply] = model.generate([request(0)])
    assert (reply.reasoning, reply.content, reply.finish_reason) == ("s", "", "length")
    model, engine = chat(context=10, batch_size=1)
    replies = list(model.generate([request(0), request(1)]))
    assert [(reply.finish_reason, reply.usage.completion_tokens) for reply in replies] == [("context_length", 0)] * 2
    assert not engine.params


@pytest.mark.usefixtures("installed")
def test_leaving_early_aborts_what_is_under_way() -> None:
    model, engine = chat(batch_size=4)
    replies = model.generate([request(0, max_tokens=1), *(request(n) for n in range(1, 4))])
    assert next(replies).request_id == "0"
    replies.close()  # type: ignore[attr-defined]
    assert sorted(engine.aborted) == ["1", "2", "3"]


def test_loading(installed: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "tiny", tags=True)
    model = VLLMChat.from_pretrained(folder, dtype="float16", context_length=256, tensor_parallel_size=2, batch_size=7)
    assert installed == {
        "model": str(folder),
        "revision": None,
        "tokenizer_revision": None,
        "dtype": "float16",
        "max_model_len": 256,
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.9,
        "max_num_seqs": 7,
        "enable_prefix_caching": True,
        "generation_config": "vllm",
        "trust_remote_code": False,
    }
    identity = model.identity
    assert identity["engine"] == "vllm 0.0.test"
    assert identity["model"].startswith("sha256:")
    assert (identity["dtype"], identity["context_length"]) == ("bfloat16", "512")
    model.close()


def test_where_vllm_is_not_installed_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match="engine=vllm needs vLLM, which is not installed here"):
        VLLMChat.from_pretrained(tmp_path)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_new_tokens": 0}])
def test_settings_that_can_not_be_right(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected at least 1"):
        chat(**options)


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm")
def test_the_real_engine_answers(tmp_path: Path) -> None:
    model = VLLMChat.from_pretrained(
        tiny_folder(tmp_path / "tiny", tags=True), context_length=256, gpu_memory_utilization=0.2, batch_size=8
    )
    asked = [request(n, max_tokens=16) for n in range(20)]
    replies = {reply.request_id: reply for reply in model.generate(asked)}
    assert len(replies) == 20
    assert all(isinstance(reply, ChatResponse) and reply.usage.completion_tokens <= 16 for reply in replies.values())
    again = {reply.request_id: reply for reply in model.generate(asked)}
    assert again["3"] == replies["3"]
    model.close()
