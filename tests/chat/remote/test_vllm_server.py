"""The command lines are compared with what they should be; the rest runs a small server in the place of vLLM."""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

import introspect
from introspect.chat.local.loading import folder_digest
from introspect.chat.protocol import ChatRequest, ChatResponse, Message
from introspect.chat.remote.openai import OpenAIChat
from introspect.chat.remote.vllm_server import VLLMServer
from introspect.chat.templates import load_tokenizer
from introspect.core.errors import InputError
from tests.composing import compose_config
from tests.tuning.tiny import tiny_folder

FAKE = Path(__file__).with_name("fake_vllm.py")

COMMANDS: list[tuple[dict[str, Any], str]] = [
    (
        {"model": "Qwen/Qwen3-1.7B"},
        "vllm serve Qwen/Qwen3-1.7B --host 127.0.0.1 --port 8123 --dtype auto --tensor-parallel-size 1"
        " --gpu-memory-utilization 0.9 --enable-prefix-caching --generation-config vllm",
    ),
    (
        {
            "model": "/models/my model",
            "revision": "abc",
            "dtype": "bfloat16",
            "tensor_parallel_size": 2,
            "data_parallel_size": 4,
            "data_parallel_size_local": 2,
            "data_parallel_address": "10.0.0.1",
            "data_parallel_rpc_port": 13345,
            "gpu_memory_utilization": 0.5,
            "max_num_seqs": 64,
            "trust_remote_code": True,
            "extra_args": ["--enforce-eager", "--swap-space", 4],
            "executable": "/opt/vllm",
        },
        "/opt/vllm serve '/models/my model' --host 127.0.0.1 --port 8123 --revision abc --dtype bfloat16"
        " --tensor-parallel-size 2 --data-parallel-size 4 --data-parallel-size-local 2 --data-parallel-address 10.0.0.1"
        " --data-parallel-rpc-port 13345 --gpu-memory-utilization 0.5 --max-num-seqs 64 --enable-prefix-caching"
        " --generation-config vllm --trust-remote-code --enforce-eager --swap-space 4",
    ),
]


@pytest.mark.parametrize(("options", "line"), COMMANDS, ids=["defaults", "all"])
def test_command_lines(options: dict[str, Any], line: str) -> None:
    assert shlex.join(VLLMServer(**options).command(8123)) == line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra_args": ["--api-key=abc"]}, "--api-key is set here"),
        ({"extra_args": ["--host", "0.0.0.0"]}, "--host is set here"),
        ({"extra_args": ["--trust_remote_code"]}, "--trust-remote-code is set here"),
        ({"gpu_memory_utilization": 90}, "expected a share up to 1"),
    ],
)
def test_what_is_not_the_users_to_set(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        VLLMServer("m", **options)
    assert "abc" not in str(caught.value)


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str = "", **options: Any) -> VLLMServer:
    """A server whose command is `vllm` on PATH."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    script = bin_folder / "vllm"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(FAKE))} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_VLLM", mode)
    monkeypatch.setenv("FAKE_VLLM_DIR", str(tmp_path))
    return VLLMServer("org/m", served_name="m", log_dir=tmp_path / "logs", **options)


def is_gone(pid: int, patience_s: float = 20.0) -> bool:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{pid}/stat")
        if status.is_file() and status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_started_when_it_is_asked_checked_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = fake(tmp_path, monkeypatch, reasoning_parser="qwen3")
    model = OpenAIChat("m", server=server)
    assert not (tmp_path / "pid").exists()
    asked = [ChatRequest(str(n), (Message("user", f"hello {n}"),)) for n in range(3)]
    replies = {reply.request_id: reply for reply in model.generate(asked)}
    first = replies["1"]
    assert isinstance(first, ChatResponse)
    assert (first.reasoning, first.content) == ("as m", "echo hello 1")
    pid = int((tmp_path / "pid").read_text())
    # A second job uses the same process.
    assert len(list(model.generate(asked))) == 3
    assert int((tmp_path / "pid").read_text()) == pid
    endpoint = server.start()
    assert endpoint.key is not None
    key = endpoint.key.reveal()
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["key_is_set"]
    assert seen["arguments"] == server.command(int(endpoint.base_url.split(":")[2].split("/")[0]))[1:]
    assert len(key) > 30
    assert not any(key in path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert key not in Path(f"/proc/{pid}/cmdline").read_text()
    model.close()
    assert is_gone(pid)
    # And it can be started again.
    assert len(list(model.generate(asked[:1]))) == 1
    again = int((tmp_path / "pid").read_text())
    assert again != pid
    model.close()
    model.close()
    assert is_gone(again)


def test_a_server_that_is_forgotten_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = fake(tmp_path, monkeypatch)
    server.start()
    pid = int((tmp_path / "pid").read_text())
    del server
    gc.collect()
    assert is_gone(pid)


def test_a_port_that_was_taken_meanwhile_is_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = fake(tmp_path, monkeypatch, "busy")
    assert server.start().base_url
    assert len(list((tmp_path / "logs").glob("vllm-*.log"))) == 2
    server.stop()


def test_an_end_in_the_middle_is_noticed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = OpenAIChat("m", server=fake(tmp_path, monkeypatch), concurrency=2)
    asked = [ChatRequest(str(n), (Message("user", "die" if n == 5 else "live"),)) for n in range(50)]
    began, kept = time.monotonic(), []
    with pytest.raises(InputError, match=r"vllm serve ended with status 5: .*fell off the bus"):
        kept.extend(model.generate(asked))
    assert time.monotonic() - began < 600
    assert len(kept) >= 3


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("crash", r"status 3 while it started: .*loading.*CUDA out of memory"),
        ("hang", "not ready after start_timeout_s=2: INFO loading weights"),
        ("other", r"serves \['something-else'\], not m"),  # another server on the port
    ],
)
def test_a_failed_start_is_one_line_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, message: str
) -> None:
    server = fake(tmp_path, monkeypatch, mode, **({"start_timeout_s": 2.0} if mode == "hang" else {}))
    with pytest.raises(InputError, match=message) as caught:
        server.start()
    assert "\n" not in str(caught.value)
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_a_missing_command_is_named() -> None:
    with pytest.raises(InputError, match="'no-such-vllm' was not found: install vLLM in an environment of its own"):
        VLLMServer("m", executable="no-such-vllm").start()


def test_a_student_is_served_under_its_content_with_its_own_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder(tmp_path / "student", tags=True)
    fake(tmp_path, monkeypatch)  # the command on PATH
    overrides = ["engine=vllm", "engine.batch_size=7", "engine.dtype=float16", "engine.context_length=256"]
    cfg = compose_config("train", [f"model.model={folder}", "model.chat_template=verbatim", *overrides], tmp_path)
    model = instantiate(cfg.engine)()
    name = f"sha256:{folder_digest(folder)}"
    assert (model.model, model.concurrency, model.max_failure_rate) == (name, 7, 0.0)
    template = load_tokenizer(folder, chat_template="verbatim").chat_template
    digest = hashlib.sha256(template.encode()).hexdigest()
    assert model.identity["variant"] == f"vllm, float16, template {digest}"
    (reply,) = model.generate([ChatRequest("a", (Message("user", "hello"),))])
    assert reply.content == "echo hello"
    arguments = json.loads((tmp_path / "seen.json").read_text())["arguments"]
    given = dict(itertools.pairwise(arguments))
    assert (arguments[1], given["--served-model-name"], given["--dtype"]) == (str(folder), name, "float16")
    assert given["--max-model-len"] == "256"
    assert Path(given["--chat-template"]).read_text() == template
    pid = int((tmp_path / "pid").read_text())
    model.close()
    assert is_gone(pid)


def test_a_folder_and_its_baseline_are_evaluated_on_servers_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, monkeypatch)
    tuned, base = (tiny_folder(tmp_path / name, tags=True, seed=seed) for seed, name in enumerate(("tuned", "base")))
    overrides = ["engine=vllm", f"ckpt_path={tuned}", f"baseline={base}", "judge=none", "data.sizes.test=3"]
    metrics = instantiate(compose_config("evaluate", overrides, tmp_path).evaluation)()
    assert (metrics["test/n"], metrics["test/baseline/n"], metrics["test/completion_tokens"]) == (3, 3, 6)
    # The baseline comes last: by then the student's server has ended.
    assert json.loads((tmp_path / "seen.json").read_text())["arguments"][1] == str(base)
    assert is_gone(int((tmp_path / "pid").read_text()))


OWNER = """
import sys
from introspect.chat.remote.vllm_server import VLLMServer
server = VLLMServer("org/m", served_name="m", log_dir=sys.argv[1])
server.start()
print("up", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_server_does_not_outlive_an_owner_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch)
    environment = {**os.environ, "PYTHONPATH": str(Path(introspect.__file__).parents[1])}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n", owner.communicate()
    owner.kill()
    owner.wait()
    assert is_gone(int((tmp_path / "pid").read_text()))
