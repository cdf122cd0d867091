"""Starts, supervises and stops a `vllm serve` on this machine.

It listens on the loopback interface only, on a free port, with a random API key that is passed through the environment,
so that neither other users of the machine nor the process list see it.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import weakref
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from introspect.chat.remote import supervise
from introspect.chat.remote.endpoint import Endpoint, Secret
from introspect.chat.remote.openai import OpenAIChat
from introspect.core.errors import InputError, one_line

if TYPE_CHECKING:
    from introspect.chat.templates import TemplateChoice

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
# Options of `vllm serve` that `VLLMServer` sets itself.
_OURS = ("--host", "--port", "--api-key", "--trust-remote-code")
_LAST_LINES = 12
_POLL_S = 0.5
# Attempts to find a free port.
_PORTS = 3
# Without these, vLLM reports usage statistics.
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class VLLMServer:
    """Serves one model with vLLM.

    Args:
        model: folder or hub id.
        served_name: name of the model in requests; None takes `model`.
        revision: branch, tag or commit on the hub; None takes the newest.
        dtype: of the weights: auto, bfloat16, float16, float32.
        context_length: tokens of prompt and completion together; None takes the model's own.
        tensor_parallel_size: GPUs over which each copy of the weights is spread.
        data_parallel_size: copies of the model behind one address.
        data_parallel_size_local: copies on this machine; None means all. Other machines start theirs with
            `--headless`.
        data_parallel_address: address of this machine for the others.
        data_parallel_rpc_port: port for the others.
        gpu_memory_utilization: fraction of each GPU's memory that vLLM takes.
        max_num_seqs: completions that each copy generates at a time; None leaves it to vLLM.
        chat_template: text of the template that prompts are rendered with; None takes the model's own.
        reasoning_parser: separates reasoning from content: openai_gptoss, qwen3, gemma4, …; None leaves it in the
            content, where it is found if it is in think tags.
        trust_remote_code: whether code that comes with the model may run.
        extra_args: further arguments of `vllm serve`.
        environment: further environment variables of the server.
        executable: the command.
        start_timeout_s: seconds that loading may take.
        log_dir: folder of the server's log file; None takes one for temporary files.

    Raises:
        InputError: a setting is invalid.
    """

    def __init__(
        self,
        model: str,
        *,
        served_name: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        context_length: int | None = None,
        tensor_parallel_size: int = 1,
        data_parallel_size: int = 1,
        data_parallel_size_local: int | None = None,
        data_parallel_address: str | None = None,
        data_parallel_rpc_port: int | None = None,
        gpu_memory_utilization: float = 0.9,
        max_num_seqs: int | None = None,
        chat_template: str | None = None,
        reasoning_parser: str | None = None,
        trust_remote_code: bool = False,
        extra_args: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        executable: str = "vllm",
        start_timeout_s: float = 1800.0,
        log_dir: str | Path | None = None,
    ) -> None:
        for given in extra_args:
            if (name := str(given).partition("=")[0].replace("_", "-")) in _OURS:
                raise InputError(f"server.extra_args: {name} is set here and can not be given")
        if not 0 < gpu_memory_utilization <= 1:
            raise InputError(f"server.gpu_memory_utilization is {gpu_memory_utilization}, expected a share up to 1")
        self.model, self.executable, self._start_timeout_s = model, executable, start_timeout_s
        self._log_dir, self._environment = log_dir, dict(environment or {})
        self._chat_template = chat_template
        # In the order of the command line; None leaves an option out, True gives it without a value.
        self._options: dict[str, Any] = {
            "served-model-name": served_name,
            "revision": revision,
            "dtype": dtype,
            "max-model-len": context_length,
            "tensor-parallel-size": tensor_parallel_size,
            "data-parallel-size": data_parallel_size if data_parallel_size > 1 else None,
            "data-parallel-size-local": data_parallel_size_local,
            "data-parallel-address": data_parallel_address,
            "data-parallel-rpc-port": data_parallel_rpc_port,
            "gpu-memory-utilization": gpu_memory_utilization,
            "max-num-seqs": max_num_seqs,
            "enable-prefix-caching": True,
            # The model's own generation config would silently limit completions and change the sampling.
            "generation-config": "vllm",
            "reasoning-parser": reasoning_parser,
            "trust-remote-code": trust_remote_code or None,
        }
        self._extra_args = tuple(map(str, extra_args))
        self._log = Path()
        self._endpoint: Endpoint | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., VLLMServer] | None = None

    def command(self, port: int) -> list[str]:
        """The command line, which contains no secret."""
        words = [self.executable, "serve", self.model, "--host", HOST, "--port", str(port)]
        for name, value in self._options.items():
            if value is not None:
                words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return [*words, *self._extra_args]

    def start(self) -> Endpoint:
        """Start the server unless it is running, and wait until the model is loaded.

        Raises:
            InputError: vLLM is not installed, or exited or hung while loading; with the last lines of its log.
        """
        if self._endpoint is not None and self._process is not None and self._process.poll() is None:
            return self._endpoint
        self.stop()
        executable = shutil.which(self.executable)
        if executable is None:
            raise InputError(
                f"{self.model}: the command {self.executable!r} was not found: install vLLM in an environment of its"
                " own and give server.executable=/path/to/vllm, or base_url=… of a server that runs"
            )
        folder = Path(self._log_dir or tempfile.mkdtemp(prefix="introspect-vllm-"))
        folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(_PORTS):
            try:
                self._endpoint = self._launch(executable, folder)
                break
            except InputError as error:
                # Another process took the port in the meantime.
                if attempt + 1 == _PORTS or "address already in use" not in str(error).lower():
                    raise
        assert self._endpoint is not None
        return self._endpoint

    def _launch(self, executable: str, folder: Path) -> Endpoint:
        port, key = _free_port(), secrets.token_urlsafe(32)
        self._log = path = folder / f"vllm-{port}.log"
        command = self.command(port)
        if self._chat_template is not None:
            template = folder / "chat_template.jinja"
            template.write_text(self._chat_template, encoding="utf-8")
            command += ["--chat-template", str(template)]
        log.info("starting %s (log: %s)", one_line(shlex.join(command), 4000), path)
        with path.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, supervise.__file__, executable, *command[1:]],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_QUIET, **self._environment, "VLLM_API_KEY": key},
            )
        # Runs also when this object is garbage-collected and when the interpreter exits.
        self._end = weakref.finalize(self, _end, self._process)
        self._await_health(port, key, path)
        return Endpoint(f"http://{HOST}:{port}/v1", Secret(key))

    def check(self) -> None:
        """Raise InputError, with the last lines of the log, if the server was started and has exited."""
        status = None if self._process is None else self._process.poll()
        if status is not None:
            raise InputError(f"{self.model}: vllm serve ended with status {status}: {_tail(self._log)}")

    def stop(self) -> None:
        """Stop the server if it is running, and wait until its memory is free."""
        if self._end is not None:
            self._end()
        self._endpoint = self._process = self._end = None

    def _await_health(self, port: int, key: str, path: Path) -> None:
        assert self._process is not None
        start = time.monotonic()
        while not _answers(f"http://{HOST}:{port}/health"):
            status = self._process.poll()
            if status is not None:
                self.stop()
                raise InputError(f"{self.model}: vllm serve ended with status {status} while it started: {_tail(path)}")
            if time.monotonic() - start > self._start_timeout_s:
                self.stop()
                raise InputError(
                    f"{self.model}: vllm serve was not ready after start_timeout_s={self._start_timeout_s:g}:"
                    f" {_tail(path)}"
                )
            time.sleep(_POLL_S)
        # Another server may have taken the port first, but only ours knows the key.
        served = _models(f"http://{HOST}:{port}/v1/models", key)
        name = self._options["served-model-name"] or self.model
        if name not in served:
            self.stop()
            raise InputError(f"{self.model}: what answers on port {port} serves {served or 'nothing'}, not {name}")
        log.info("%s is served after %.0f s", self.model, time.monotonic() - start)


def serve(
    name_or_path: str | Path,
    *,
    server: Callable[..., VLLMServer],
    revision: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    chat_template: TemplateChoice = "own",
    batch_size: int = 256,
    extra_body: Mapping[str, Any] | None = None,
    **options: Any,
) -> OpenAIChat:
    """A student on a `vllm serve` of its own, which the first request starts and `close` stops.

    Its answers are stored under the content of its weights and of its chat template, as for `TransformersChat`.

    Args:
        name_or_path: model folder or hub id.
        server: makes the server, as a `functools.partial` of `VLLMServer`.
        revision: branch, tag or commit on the hub; None takes the newest.
        dtype: of the weights.
        trust_remote_code: whether code that comes with the model may run.
        chat_template: see `load_tokenizer`.
        batch_size: requests in flight.
        extra_body: further fields of every request.
        options: further arguments of `OpenAIChat`.

    Raises:
        InputError: there is no such model, or a setting cannot be right.
    """
    from transformers import AutoConfig

    from introspect.chat.local.loading import source_identity
    from introspect.chat.templates import ChatTemplate, load_tokenizer, stop_ids

    origin: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    tokenizer = load_tokenizer(name_or_path, chat_template=chat_template, **origin)
    name = source_identity(name_or_path, AutoConfig.from_pretrained(name_or_path, **origin), revision)
    template = ChatTemplate(tokenizer, name)
    text = None if chat_template == "own" else template.text
    return OpenAIChat(
        name,
        server=server(model=str(name_or_path), served_name=name, dtype=dtype, chat_template=text, **origin),
        concurrency=batch_size,
        variant=f"vllm, {dtype}, template {template.digest}",
        # Where the think tags are special tokens, the turn is split at them.
        extra_body={"stop_token_ids": sorted(stop_ids(tokenizer)), "skip_special_tokens": False, **(extra_body or {})},
        **options,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe, which ends the server, and wait."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(supervise.GRACE_S + 5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _open(url: str, key: str | None = None) -> bytes:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    # No proxy for this machine.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
        return bytes(response.read(2**20))


def _answers(url: str) -> bool:
    try:
        _open(url)
    except (OSError, HTTPException):  # urllib's errors are OSErrors
        return False
    return True


def _models(url: str, key: str) -> list[str]:
    try:
        return [str(model["id"]) for model in json.loads(_open(url, key))["data"]]
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return []


def _tail(path: Path) -> str:
    """The last lines of a log, joined into one."""
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return one_line(" | ".join(lines[-_LAST_LINES:]), 1500) or "its log is empty"
