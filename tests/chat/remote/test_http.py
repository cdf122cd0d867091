"""Raw bytes from a server that says exactly what it is told, on real sockets."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from introspect.chat.remote.http import Connections, Response, proxy_for
from introspect.core.errors import InputError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Script:
    """Answers every request with the next of its texts; keeps what it was sent."""

    def __init__(
        self, *answers: bytes, pieces: int = 0, closes: bool = False, context: ssl.SSLContext | None = None
    ) -> None:
        self.answers, self.pieces, self.closes, self.context = list(answers), pieces, closes, context
        self.requests: list[bytes] = []
        self.connections = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0)
                step = self.pieces or len(answer) or 1
                for start in range(0, len(answer), step):
                    writer.write(answer[start : start + step])
                    await writer.drain()
                    if self.pieces:
                        await asyncio.sleep(0)
                if self.closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def start(self) -> tuple[asyncio.Server, int]:
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0, ssl=self.context)
        return server, server.sockets[0].getsockname()[1]


def play(script: Script, story: Callable[[Connections], Awaitable[object]], **options: float) -> None:
    """Let a story happen with connections to a scripted server."""

    async def main() -> None:
        server, port = await script.start()
        async with Connections(f"http://127.0.0.1:{port}/v1/x?a=b", {"X-Name": "v"}, **options) as connections:  # type: ignore[arg-type]
            await story(connections)
        server.close()

    asyncio.run(asyncio.wait_for(main(), 20))


def reply_to(answer: bytes, *further: bytes, pieces: int = 0, closes: bool = False, **options: float) -> Response:
    """The response to one answer; `further` ones, which nobody requests, keep the connection open."""
    found: list[Response] = []

    async def story(connections: Connections) -> None:
        found.append(await connections.post(b"body"))

    play(Script(answer, *further, pieces=pieces, closes=closes), story, **options)
    return found[0]


def test_what_is_sent_and_that_connections_are_used_again() -> None:
    script = Script(OK, OK, OK)

    async def story(connections: Connections) -> None:
        assert (await connections.post(b"one")).body == b"ok"
        await connections.post("zwölf".encode())
        await connections.post(b"")

    play(script, story)
    assert script.connections == 1
    head, _, body = script.requests[1].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/x?a=b HTTP/1.1"
    assert {"Accept-Encoding: identity", "X-Name: v", "Content-Length: 6"} < set(lines)
    assert body.decode() == "zwölf"


@pytest.mark.parametrize("pieces", [0, 3])
def test_bodies_are_read_however_they_are_sent(pieces: int) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n5;x=y\r\n, yes\r\n0\r\n\r\n"
    assert reply_to(chunked, pieces=pieces).body == b"ok, yes"
    assert reply_to(b"HTTP/1.1 200 OK\r\n\r\nto the end", pieces=pieces, closes=1).body == b"to the end"
    busy = reply_to(b"HTTP/1.0 503 Busy\r\nRetry-After: 3\r\n\r\n", pieces=pieces, closes=1)
    assert (busy.status, busy.headers["retry-after"]) == (503, "3")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "disconnected"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "not completed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", "not completed"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "Bad status line|Invalid|Expected HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", "65536"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2_000, "a reply of more than 1000 bytes"),
    ],
)
def test_what_is_no_answer(answer: bytes, message: str) -> None:
    with pytest.raises(aiohttp.ClientError, match=message):
        reply_to(answer, closes=1, largest=1000)


def test_silence_ends_a_request_but_slowness_does_not() -> None:
    with pytest.raises(TimeoutError, match="Timeout on reading data"):
        reply_to(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", OK, silence_s=0.1)

    class Slow(Script):
        async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            for index in range(len(OK)):
                writer.write(OK[index : index + 1])
                await asyncio.sleep(1.5 / len(OK))  # longer in all than silence may last
            writer.close()

    async def story(connections: Connections) -> None:
        assert (await connections.post(b"")).body == b"ok"

    play(Slow(), story, silence_s=1.0)


def test_a_connection_is_not_reused_where_the_next_answer_would_not_be_ours() -> None:
    async def twice(connections: Connections) -> None:
        await connections.post(b"")
        await asyncio.sleep(0.05)
        assert (await connections.post(b"")).body == b"ok"

    # A second answer that nobody requested must not become the next one's.
    chatty = Script(OK + OK.replace(b"ok", b"no"), OK)
    play(chatty, twice)
    assert chatty.connections == 2
    idle = Script(OK, OK)
    play(idle, twice, idle_s=0.01)
    assert idle.connections == 2


def test_a_cancelled_request_leaves_no_answer_behind() -> None:
    script = Script(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nlate", OK)

    async def story(connections: Connections) -> None:
        asked = asyncio.create_task(connections.post(b"first"))
        while script.answers[0] != OK:
            await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert (await connections.post(b"second")).body == b"ok"

    play(script, story)
    assert script.connections == 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for `localhost`, made for the test."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def served_by(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_tls_is_verified(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        server, port = await Script(OK, OK, context=served_by(certificate)).start()
        async with Connections(f"https://localhost:{port}/", {}) as connections:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connections.post(b"")
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
        async with Connections(f"https://localhost:{port}/", {}) as connections:
            assert (await connections.post(b"")).body == b"ok"
        server.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_proxy_is_given_its_password_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        script = Script(OK, OK)
        server, port = await script.start()
        monkeypatch.setenv("http_proxy", f"http://me:s%3Acret@127.0.0.1:{port}")
        async with Connections("http://far.invalid:81/v1", {}) as connections:
            for _ in range(2):
                assert (await connections.post(b"")).body == b"ok"
        for request in script.requests:
            assert request.startswith(b"POST http://far.invalid:81/v1 HTTP/1.1\r\nHost: far.invalid:81\r\n")
            assert b"\r\nProxy-Authorization: Basic bWU6czpjcmV0\r\n" in request
        server.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_proxy_that_refuses_a_tunnel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        script = Script(b"HTTP/1.1 403 Forbidden\r\n\r\n", closes=True)
        server, port = await script.start()
        monkeypatch.setenv("https_proxy", f"http://me:hunter2@127.0.0.1:{port}")
        async with Connections("https://far.invalid/v1", {}) as connections:
            with pytest.raises(aiohttp.ClientError, match=r"the proxy answers 403$"):
                await connections.post(b"secret")
        assert script.requests[0].startswith(b"CONNECT far.invalid:443 HTTP/1.1\r\n")
        server.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_no_proxy_is_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "127.0.0.1:9")
    assert reply_to(OK).body == b"ok"
    monkeypatch.setenv("no_proxy", "inside.example")
    assert proxy_for("http://inside.example/") is None
    assert proxy_for("http://outside.example/") == "http://127.0.0.1:9"


def test_a_proxy_of_another_kind_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5h://me:hunter2@127.0.0.1:9")
    with pytest.raises(InputError, match=r"https_proxy .* kind socks5h, .*NO_PROXY=far\.invalid") as caught:
        proxy_for("https://far.invalid/v1")
    assert "hunter2" not in str(caught.value)
