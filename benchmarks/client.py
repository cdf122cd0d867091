"""How fast the client is, and how much memory it takes: `python benchmarks/client.py`.

Against the tests' own server, in a process of its own, which answers each request after 50 ms. Compared, in one run and
in turns: `OpenAIChat` with 512 requests in flight, with and without the store, and clients of 512 blocking threads, one
keep-alive connection each, on `requests`, on `httpx` (what OpenAI's own library uses) and on bare `http.client`. All
get the same requests, and clients are made before the clock runs. Then 100,000 requests through `answer` into a store,
with the memory as it goes.

    python benchmarks/client.py --rounds 5        more turns; the median of each is shown
    python benchmarks/client.py --requests 2000   fewer requests in each
    python benchmarks/client.py --requests 0      only the memory
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from introspect.chat.protocol import ChatRequest, Message  # noqa: E402
from introspect.chat.remote.openai import OpenAIChat  # noqa: E402
from introspect.chat.store import ResponseStore, answer  # noqa: E402
from tests.chat.remote.serving import Served  # noqa: E402

IN_FLIGHT, LATENCY_S = 512, 0.05
IDEAL = IN_FLIGHT / LATENCY_S
# As long as a short prompt: what is measured is the client, not the copying of text.
PROMPT = "Question {}: which of the documents says where the employer of the author was born? " * 4


def requests_of(count: int, salt: str) -> Iterator[ChatRequest]:
    """Requests that are made as they are wanted."""
    for number in range(count):
        yield ChatRequest(str(number), (Message("user", f"{salt} {PROMPT.format(*[number] * 4)}"),))


def ours(url: str, count: int, salt: str) -> float:
    """Straight from the client: seconds."""
    model = OpenAIChat("m", base_url=url, concurrency=IN_FLIGHT)
    start = time.perf_counter()
    assert sum(1 for _ in model.generate(requests_of(count, salt))) == count
    return time.perf_counter() - start


def ours_stored(url: str, count: int, salt: str) -> float:
    """Through the store, as every recipe asks: seconds."""
    model = OpenAIChat("m", base_url=url, concurrency=IN_FLIGHT)
    with tempfile.TemporaryDirectory() as folder, ResponseStore(Path(folder) / "r.sqlite") as store:
        start = time.perf_counter()
        assert sum(1 for _ in answer(model, requests_of(count, salt), store)) == count
        return time.perf_counter() - start


def threads(connect: Callable[[str], Callable[[bytes], bytes]]) -> Callable[[str, int, str], float]:
    """A client of blocking threads, each with its own connection: seconds."""

    def run(url: str, count: int, salt: str) -> float:
        body_of = OpenAIChat("m", base_url=url).body
        pending, lock, done = requests_of(count, salt), threading.Lock(), []
        # The last to arrive starts the clock: this thread may get its turn long after all have gone on.
        started: list[float] = []
        ready = threading.Barrier(IN_FLIGHT, action=lambda: started.append(time.perf_counter()))

        def work() -> None:
            post = connect(f"{url}/chat/completions")
            ready.wait()
            while True:
                with lock:
                    request = next(pending, None)
                if request is None:
                    return
                done.append(json.loads(post(body_of(request)))["choices"][0]["message"]["content"])

        workers = [threading.Thread(target=work) for _ in range(IN_FLIGHT)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(done) == count
        return time.perf_counter() - started[0]

    return run


JSON = {"Content-Type": "application/json"}


def with_requests(url: str) -> Callable[[bytes], bytes]:
    """A session of `requests`."""
    import requests

    session = requests.Session()
    session.trust_env = False
    return lambda body: session.post(url, data=body, headers=JSON).content


def with_httpx(url: str) -> Callable[[bytes], bytes]:
    """A client of `httpx`."""
    import httpx

    client = httpx.Client(trust_env=False, verify=False, timeout=60)
    return lambda body: client.post(url, content=body, headers=JSON).content


def with_http_client(url: str) -> Callable[[bytes], bytes]:
    """The standard library's bare connection: no pool, no retries, no redirects, no proxies."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)

    def post(body: bytes) -> bytes:
        connection.request("POST", address.path, body, JSON)
        return connection.getresponse().read()

    return post


CLIENTS: dict[str, Callable[[str, int, str], float]] = {
    "OpenAIChat": ours,
    "OpenAIChat, with the store": ours_stored,
    "512 threads, requests": threads(with_requests),
    "512 threads, httpx": threads(with_httpx),
    "512 threads, bare http.client": threads(with_http_client),
}


def throughput(url: str, count: int, rounds: int) -> None:
    """Every client in turn, several times."""
    import aiohttp  # noqa: F401 - loaded before the clock runs
    import httpx  # noqa: F401
    import requests  # noqa: F401

    rates: dict[str, list[float]] = {name: [] for name in CLIENTS}
    for turn in range(rounds):
        for name, run in CLIENTS.items():
            rates[name].append(count / run(url, count, f"{name} {turn}"))
            print(f"  turn {turn + 1}: {name}: {rates[name][-1]:,.0f} requests/s", flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = medians["OpenAIChat"]
    print(f"\n{IN_FLIGHT} in flight, {LATENCY_S * 1000:.0f} ms each: {IDEAL:,.0f} requests/s at best")
    for name, rate in medians.items():
        print(f"{name:32} {rate:8,.0f} requests/s  {rate / IDEAL:5.1%} of the ideal  OpenAIChat is {best / rate:.1f} x")


def resident_mib() -> float:
    """Memory of this process in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(url: str, count: int) -> None:
    """The memory while requests go through the store; a curve that is flat after the start."""
    model = OpenAIChat("m", base_url=url, concurrency=IN_FLIGHT)
    step, curve = max(1, count // 10), []
    with tempfile.TemporaryDirectory() as folder, ResponseStore(Path(folder) / "r.sqlite") as store:
        start = time.perf_counter()
        for done, _ in enumerate(answer(model, requests_of(count, "memory"), store), start=1):
            if done % step == 0:
                curve.append(resident_mib())
                print(f"  {done:7,} answered: {curve[-1]:.1f} MiB", flush=True)
        rate = count / (time.perf_counter() - start)
        assert len(store) == count
    print(
        f"\n{count:,} requests through the store at {rate:,.0f}/s: {curve[0]:.1f} MiB after the first tenth,"
        f" {curve[-1]:.1f} MiB at the end, {curve[-1] - curve[0]:+.1f} MiB"
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="of each client in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=100_000, help="requests of the memory curve")
    options = parser.parse_args()
    with Served("--latency", str(LATENCY_S)) as server:
        if options.requests:
            throughput(server.url, options.requests, options.rounds)
        if options.memory:
            memory(server.url, options.memory)


if __name__ == "__main__":
    main()
