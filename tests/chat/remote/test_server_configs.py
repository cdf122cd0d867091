"""What `teacher=`, `judge=` and `engine=` options that are servers build, without a network and without a key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate

from introspect.chat.protocol import ChatFailure, ChatRequest, Message
from introspect.chat.remote.openai import OpenAIChat
from introspect.chat.remote.retry import RetryPolicy
from introspect.chat.remote.vllm_server import VLLMServer
from tests.chat.remote.asking import replying
from tests.chat.remote.serving import Serving, completion
from tests.composing import compose_config


def command(model: OpenAIChat) -> str:
    assert isinstance(model.server, VLLMServer)
    return " ".join(model.server.command(8123))


def test_the_papers_teacher(tmp_path: Path) -> None:
    cfg = compose_config("train", ["teacher=gpt_oss_120b", "teacher.server.data_parallel_size=2"], tmp_path)
    teacher = instantiate(cfg.teacher)
    assert command(teacher) == (
        "vllm serve openai/gpt-oss-120b --host 127.0.0.1 --port 8123 --served-model-name openai/gpt-oss-120b"
        " --dtype auto --max-model-len 32768 --tensor-parallel-size 4 --data-parallel-size 2"
        " --gpu-memory-utilization 0.9 --enable-prefix-caching --generation-config vllm"
        " --reasoning-parser openai_gptoss"
    )
    assert teacher.identity == {
        "model": "openai/gpt-oss-120b",
        "engine": "openai",
        "context_length": "32768",
        "reasoning_effort": "high",
    }
    assert (teacher.concurrency, teacher.max_failure_rate) == (512, 0.01)
    sampling = instantiate(cfg.teaching)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens) == (0.6, 0.95, 20, None)


def test_the_papers_judge(tmp_path: Path) -> None:
    overrides = ["judge=gemma_31b", "judge.server.revision=abc", "ckpt_path=x"]
    judge = instantiate(compose_config("evaluate", overrides, tmp_path).judge)
    assert command(judge) == (
        "vllm serve google/gemma-4-31B-it --host 127.0.0.1 --port 8123 --served-model-name google/gemma-4-31B-it"
        " --revision abc --dtype auto --max-model-len 32768 --tensor-parallel-size 4 --gpu-memory-utilization 0.9"
        " --enable-prefix-caching --generation-config vllm --reasoning-parser gemma4"
    )
    assert judge.identity["variant"] == "abc"  # other weights, other answers


@pytest.mark.parametrize(("command", "part"), [("train", "teacher"), ("evaluate", "judge")])
def test_a_hosted_api_needs_no_server_and_no_key_until_it_is_asked(command: str, part: str, tmp_path: Path) -> None:
    model = instantiate(compose_config(command, [f"{part}=openai_api", f"{part}.model=small"], tmp_path)[part])
    assert isinstance(model, OpenAIChat)
    assert (model.base_url, model.server, model.stream) == ("https://api.openai.com/v1", None, True)
    # What is not sent is the server's to choose, so these are other answers than those with a top_k.
    assert model.identity == {"model": "small", "engine": "openai", "sampling_fields": "seed,temperature,top_p"}


def test_an_engine_is_a_factory_that_takes_the_students_batch(tmp_path: Path) -> None:
    overrides = ["engine=openai", "engine.base_url=http://h/v1", "engine.batch_size=9", "engine.retry.attempts=2"]
    factory = instantiate(compose_config("train", ["model.model=org/name", *overrides], tmp_path).engine)
    model = factory()
    assert (model.model, model.concurrency, model.max_failure_rate) == ("org/name", 9, 0.0)
    assert model._retry == RetryPolicy(attempts=2)


def test_the_shipped_policy_is_the_one_of_the_class(tmp_path: Path) -> None:
    assert instantiate(compose_config("train", ["teacher=openai_api"], tmp_path).teacher.retry) == RetryPolicy()


def test_a_teacher_whose_reasoning_is_in_its_content_is_noticed(tmp_path: Path) -> None:
    # What gpt-oss writes on a server that was started without its parser.
    mixed = completion("x", "reasoning")
    mixed["choices"][0]["message"] = {"content": "analysisThe answer given is Oslo.assistantfinalWe read. It is Oslo."}
    with Serving() as server, replying(mixed):
        overrides = ["teacher=gpt_oss_120b", f"teacher.base_url={server.url}", "teacher.retry.base_s=0.001"]
        model = instantiate(compose_config("train", overrides, tmp_path).teacher)
        (reply,) = model.generate([ChatRequest("a", (Message("user", "?"),))])
    assert isinstance(reply, ChatFailure)
    assert reply.reason == "no_reasoning"
