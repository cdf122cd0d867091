#!/usr/bin/env python
"""Stands for the `vllm` command in tests: a real HTTP server that wants the key, or an end while it starts.

It writes what it was given to `seen.json` in FAKE_VLLM_DIR, and its process id to `pid`. FAKE_VLLM is empty,
crash, busy, hang or other.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODE, FOLDER, KEY = os.environ.get("FAKE_VLLM"), Path(os.environ["FAKE_VLLM_DIR"]), os.environ["VLLM_API_KEY"]
ARGUMENTS = sys.argv[1:]


def option(name: str) -> str:
    return ARGUMENTS[ARGUMENTS.index(name) + 1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply(200, {})
        elif self.path == "/v1/models" and self.headers["Authorization"] == f"Bearer {KEY}":
            self.reply(200, {"data": [{"id": "something-else" if MODE == "other" else option("--served-model-name")}]})
        else:
            self.reply(401, {"error": "Unauthorized"})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self.reply(401, {"error": "Unauthorized"})
        if "die" in request["messages"][-1]["content"]:
            print("EngineDeadError: the GPU fell off the bus", flush=True)
            os._exit(5)
        content = f"echo {request['messages'][-1]['content']}"
        message = {"role": "assistant", "content": content, "reasoning": f"as {request['model']}"}
        usage = {"prompt_tokens": 3, "completion_tokens": 6}
        return self.reply(200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    def reply(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    (FOLDER / "seen.json").write_text(json.dumps({"arguments": ARGUMENTS, "key_is_set": bool(KEY)}))
    (FOLDER / "pid").write_text(str(os.getpid()))
    print("INFO loading weights", flush=True)
    if MODE == "crash":
        print("RuntimeError: CUDA out of memory", file=sys.stderr, flush=True)
        sys.exit(3)
    if MODE == "busy" and not (FOLDER / "was_busy").exists():
        (FOLDER / "was_busy").touch()
        print("OSError: [Errno 98] Address already in use", flush=True)
        sys.exit(1)
    if MODE == "hang":
        time.sleep(600)
    ThreadingHTTPServer((option("--host"), int(option("--port"))), Handler).serve_forever()


if __name__ == "__main__":
    main()
