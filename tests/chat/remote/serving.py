"""A real HTTP server on loopback that speaks the chat-completions protocol and misbehaves on purpose.

What it does to a request is decided by the request's text alone, so a run can be repeated and checked: a share of the
prompts meets a passing fault on the first attempts, a share is refused for good. It counts everything.

In a test, `with Serving(...) as server`; for load, and for clients that are killed, as a process of its own:

    python tests/chat/remote/serving.py --latency 0.05 --faults 0.1      prints its port

Standard library only.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

# What passes when the request is sent again, and what never does.
PASSING = ("429", "429-date", "500", "503", "reset", "stall", "truncated", "cut", "empty", "slow", "no-body")
LASTING = ("refused", "too-long", "filter", "declined")
# Where the reasoning stands, and how much is counted.
STYLES = ("reasoning", "reasoning_content", "think")
KEY = "test-key-7f3a9c51e2"


def question(number: int) -> str:
    """The text of question number `number`."""
    return f"What is number {number}?"


def answer_to(prompt: str) -> str:
    """What the server answers to a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:12]


class Behaviour:
    """What the server does to which prompt.

    `shares` gives each fault its share of the prompts; `attempts` how often a passing fault comes before it passes;
    `only`, if set, is done to every request.
    """

    def __init__(
        self,
        *,
        latency_s: float = 0.0,
        shares: dict[str, float] | None = None,
        attempts: int = 1,
        only: str | None = None,
        style: str | None = None,
        length_share: float = 0.0,
        retry_after_s: float = 0.02,
        key: str | None = None,
    ) -> None:
        self.latency_s, self.shares, self.attempts, self.only = latency_s, shares or {}, attempts, only
        self.style, self.length_share, self.retry_after_s, self.key = style, length_share, retry_after_s, key
        assert {*self.shares} | {only or "500"} <= {*PASSING, *LASTING, "401", "404", "402"}, self.shares

    def fault(self, prompt: str) -> str | None:
        """The fault that a prompt meets."""
        if self.only is not None or not self.shares:
            return self.only
        place = _uniform("fault", prompt)
        for name, share in self.shares.items():
            if place < share:
                return name
            place -= share
        return None

    def is_long(self, prompt: str) -> bool:
        """Whether the answer to a prompt hits the limit."""
        return self.length_share > 0 and _uniform("length", prompt) < self.length_share


def _uniform(salt: str, text: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{salt} {text}".encode()).digest()[:7], "big") / 2**56


def completion(prompt: str, style: str, *, is_long: bool = False) -> dict[str, Any]:
    """A chat completion in one of the styles."""
    thought, content = f"Looking up {prompt}", "" if is_long else f"<answer>{answer_to(prompt)}</answer>"
    message: dict[str, Any] = {"role": "assistant", "content": content or None}
    if style == "think":
        message["content"] = f"<think>\n{thought}" if is_long else f"<think>\n{thought}\n</think>\n\n{content}"
    else:
        message[style] = thought
    usage: dict[str, Any] = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    if style == "reasoning":
        usage["completion_tokens_details"] = {"reasoning_tokens": 15}
    choice = {"index": 0, "message": message, "finish_reason": "length" if is_long else "stop"}
    return {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


class App:
    """The server's memory, shared by its connections."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.seen: Counter[str] = Counter()  # attempts by prompt
        self.answered: Counter[str] = Counter()  # whole answers by prompt
        self.faults: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []  # the first requests, as they came
        self.headers: list[dict[str, str]] = []
        self.connections = self.open_connections = self.in_flight = self.most_in_flight = 0

    def stats(self) -> dict[str, Any]:
        return {
            "requests": self.seen.total(),
            "answers": self.answered.total(),
            "answered_again": self.answered.total() - len(self.answered),
            "faults": dict(self.faults),
        }


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, app: App) -> None:
        self.app, self.buffer = app, b""
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.app.connections += 1
        self.app.open_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.app.open_connections -= 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            lines = self.buffer[:end].decode("latin-1").split("\r\n")
            headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
            length = int(headers.get("content-length", 0))
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            method, path, _ = lines[0].split(" ", 2)
            self.handle(method, path, headers, body)

    def handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        app = self.app
        if path.startswith("/stats"):
            return self.send(200, app.stats())
        if app.behaviour.key is not None and headers.get("authorization") != f"Bearer {app.behaviour.key}":
            given = headers.get("authorization", "").removeprefix("Bearer ")
            return self.send(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
        if path != "/v1/chat/completions" or method != "POST":
            return self.send(404, {"error": {"message": f"no route {path}"}})
        request = json.loads(body)
        if len(app.bodies) < 1000:
            app.bodies.append(request)
            app.headers.append(headers)
        app.in_flight += 1
        app.most_in_flight = max(app.most_in_flight, app.in_flight)
        self.loop.call_later(app.behaviour.latency_s, self.respond, request)
        return None

    def respond(self, request: dict[str, Any]) -> None:
        app, behaviour = self.app, self.app.behaviour
        app.in_flight -= 1
        prompt = request["messages"][-1]["content"]
        app.seen[prompt] += 1
        fault = behaviour.fault(prompt)
        if fault is not None and (fault in LASTING or behaviour.only or app.seen[prompt] <= behaviour.attempts):
            app.faults[fault] += 1
            return self.misbehave(fault, prompt)
        self.complete(request, prompt)
        return None

    def complete(self, request: dict[str, Any], prompt: str) -> None:
        app, behaviour = self.app, self.app.behaviour
        style = behaviour.style or STYLES[int(_uniform("style", prompt) * len(STYLES))]
        content = completion(prompt, style, is_long=behaviour.is_long(prompt))
        if request.get("stream"):
            self.send_events(content)
        else:
            self.send(200, content)
        if not self.transport.is_closing():
            app.answered[prompt] += 1

    def misbehave(self, fault: str, prompt: str) -> None:
        after = self.app.behaviour.retry_after_s
        error = {"error": {"message": f"{fault} on purpose", "code": None}}
        whole = json.dumps(completion(prompt, "reasoning")).encode()
        if fault == "429":
            self.send(429, error, {"Retry-After": f"{after:g}"})
        elif fault == "429-date":
            self.send(429, error, {"Retry-After": formatdate(time() + after, usegmt=True)})
        elif fault.isdigit():
            self.send(int(fault), error)
        elif fault == "reset":
            self.transport.abort()
        elif fault == "stall":
            pass
        elif fault == "truncated":
            self.send_bytes(200, whole[: len(whole) // 2])
        elif fault == "no-body":
            self.send_bytes(200, b"")
        elif fault == "cut":
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole[:40])
            self.transport.close()
        elif fault == "slow":
            self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.dribble(whole, prompt)
        else:
            self.send(*_without_answer(fault))

    def dribble(self, rest: bytes, prompt: str) -> None:
        if self.transport.is_closing():
            return
        piece, rest = rest[:60], rest[60:]
        self.transport.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if rest:
            self.loop.call_later(0.01, self.dribble, rest, prompt)
        else:
            self.transport.write(b"0\r\n\r\n")
            self.app.answered[prompt] += 1

    def send(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self.send_bytes(status, json.dumps(content).encode(), headers)

    def send_bytes(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)

    def send_events(self, content: dict[str, Any]) -> None:
        """The completion word by word, as server-sent events."""
        choice = content["choices"][0]
        events: list[dict[str, Any]] = []
        for name, text in choice["message"].items():
            if name != "role" and text:
                events += [{"choices": [{"delta": {name: part}}]} for part in (text[:7], text[7:])]
        events += [{"choices": [{"delta": {}, "finish_reason": choice["finish_reason"]}]}]
        events += [{"choices": [], "usage": content["usage"]}]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + ": a comment\n\ndata: [DONE]\n\n"
        self.send_bytes(200, text.encode())


def _without_answer(fault: str) -> tuple[int, dict[str, Any]]:
    """Status and body of the faults that are well-formed replies."""
    silent = completion("", "reasoning")
    message = silent["choices"][0]["message"]
    message["content"] = None
    if fault == "empty":
        return 200, silent
    if fault == "filter":
        silent["choices"][0]["finish_reason"] = "content_filter"
        return 200, silent
    if fault == "declined":
        message["refusal"] = "I can not help with that."
        return 200, silent
    if fault == "too-long":
        text = "This model's maximum context length is 32768 tokens, but 40000 were requested."
        return 400, {"error": {"message": text, "code": "context_length_exceeded"}}
    return 400, {"error": {"message": "refused on purpose", "code": "invalid_request"}}


async def serve(app: App, port: int = 0) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Connection(app), "127.0.0.1", port, backlog=4096)


class Serving:
    """The server in a thread, for as long as the context lasts. `behaviour` may be replaced while it runs."""

    def __init__(self, **behaviour: Any) -> None:
        self.app = App(Behaviour(**behaviour))
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Serving:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    async def _main(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await serve(self.app, self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()


class Served:
    """The server as a process of its own, for as long as the context lasts."""

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, str(Path(__file__).resolve()), *arguments]

    def __enter__(self) -> Served:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def stats(self) -> dict[str, Any]:
        """What the server has counted."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.url.removesuffix("/v1") + "/stats", timeout=30) as response:
            counts: dict[str, Any] = json.load(response)
        return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds to each answer")
    parser.add_argument("--faults", type=float, default=0.0, help="share of the prompts that meet a fault")
    parser.add_argument("--lasting", type=float, default=0.0, help="share of the prompts that are refused for good")
    parser.add_argument("--length", type=float, default=0.0, help="share of the answers that hit the limit")
    options = parser.parse_args()
    shares = {name: options.faults / len(PASSING) for name in PASSING if options.faults}
    shares |= {name: options.lasting / len(LASTING) for name in LASTING if options.lasting}
    behaviour = Behaviour(latency_s=options.latency, shares=shares, length_share=options.length)

    async def forever() -> None:
        server = await serve(App(behaviour))
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(forever())


if __name__ == "__main__":
    main()
