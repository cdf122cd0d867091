"""Raw bytes from a server that says exactly what it is told, on real sockets."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from introspect.reasoning.models import http
from introspect.reasoning.models.http import HTTPError, Pool, Response

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


def play(script: Script, story: Callable[[Pool], Awaitable[object]], **options: float) -> None:
    """Let a story happen with a pool on a scripted server."""

    async def main() -> None:
        server, port = await script.start()
        pool = Pool(f"http://127.0.0.1:{port}/v1/x?a=b", {"X-Name": "v"}, **options)  # type: ignore[arg-type]
        try:
            await story(pool)
        finally:
            pool.close()
            server.close()

    asyncio.run(asyncio.wait_for(main(), 20))


def reply_to(answer: bytes, *further: bytes, **options: float) -> Response:
    """What a client makes of one answer; `further` ones, never asked for, keep the connection open."""
    found: list[Response] = []

    async def story(pool: Pool) -> None:
        found.append(await pool.post(b"body"))

    play(
        Script(answer, *further, closes=bool(options.pop("closes", 0)), pieces=int(options.pop("pieces", 0))),
        story,
        **options,
    )
    return found[0]


def test_what_is_sent_and_that_connections_are_used_again() -> None:
    script = Script(OK, OK, OK)

    async def story(pool: Pool) -> None:
        assert (await pool.post(b"one")).body == b"ok"
        assert await pool.post("zwölf".encode()) == Response(200, {"content-length": "2"}, b"ok")
        await pool.post(b"")

    play(script, story)
    assert script.connections == 1
    head, _, body = script.requests[1].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/x?a=b HTTP/1.1"
    assert lines[1].startswith("Host: 127.0.0.1:")
    assert lines[2:] == ["Accept-Encoding: identity", "X-Name: v", "Content-Length: 6"]
    assert body.decode() == "zwölf"


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nx-a: 2\r\n\r\n"
    b"2\r\nok\r\n5;x=y\r\n, yes\r\n0\r\nT: t\r\n\r\n"
)


@pytest.mark.parametrize("pieces", [0, 1, 3])
def test_bodies_of_every_form_however_they_are_cut(pieces: int) -> None:
    assert reply_to(OK, pieces=pieces).body == b"ok"
    chunked = reply_to(CHUNKED, pieces=pieces)
    assert (chunked.body, chunked.headers["x-a"]) == (b"ok, yes", "1, 2")
    assert reply_to(b"HTTP/1.1 200 OK\r\n\r\nto the end", pieces=pieces, closes=1).body == b"to the end"
    assert reply_to(b"HTTP/1.0 503 Busy\r\nRetry-After: 3\r\n\r\n", pieces=pieces, closes=1).status == 503
    assert reply_to(b"HTTP/1.1 204 None\r\n\r\n", pieces=pieces) == Response(204, {}, b"")
    assert reply_to(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\n" + OK, pieces=pieces).headers == {
        "content-length": "2"
    }


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "closed, with no answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed, with no answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "closed, with 4 bytes of a body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", "with 4 bytes of a body"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "not HTTP"),
        (b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", "changed the protocol"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", "a head of more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2_000, "a reply of more than 1000 bytes"),
    ],
)
def test_what_is_no_answer(answer: bytes, message: str) -> None:
    with pytest.raises(HTTPError, match=message):
        reply_to(answer, closes=1, largest=1000)


def test_silence_ends_an_exchange_but_slowness_does_not() -> None:
    with pytest.raises(TimeoutError, match=r"nothing came for 0.1 s"):
        reply_to(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", OK, silence_s=0.1)

    class Slow(Script):
        async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            for index in range(len(OK)):
                writer.write(OK[index : index + 1])
                await asyncio.sleep(1.5 / len(OK))  # longer in all than silence may last
            writer.close()

    async def story(pool: Pool) -> None:
        assert (await pool.post(b"")).body == b"ok"

    play(Slow(), story, silence_s=1.0)


def test_a_connection_is_not_used_again_where_it_would_not_be_ours() -> None:
    async def twice(pool: Pool) -> None:
        await pool.post(b"")
        await asyncio.sleep(0.05)
        assert (await pool.post(b"")).body == b"ok"

    closing = Script(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), OK)
    play(closing, twice)
    assert closing.connections == 2
    # A second answer that nobody asked for must not become the next one's.
    chatty = Script(OK + OK.replace(b"ok", b"no"), OK)
    play(chatty, twice)
    assert chatty.connections == 2
    idle = Script(OK, OK)
    play(idle, twice, idle_s=0.01)
    assert idle.connections == 2


def test_who_stops_waiting_leaves_no_answer_behind() -> None:
    script = Script(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nlate", OK)

    async def story(pool: Pool) -> None:
        asked = asyncio.create_task(pool.post(b"first"))
        while script.answers[0] != OK:
            await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert (await pool.post(b"second")).body == b"ok"

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
        with pytest.raises(ssl.SSLCertVerificationError):
            await Pool(f"https://localhost:{port}/", {}).post(b"")
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
        pool = Pool(f"https://localhost:{port}/", {})
        assert (await pool.post(b"")).body == b"ok"
        pool.close()
        server.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_proxies_of_the_environment(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        plain = Script(OK)
        server, port = await plain.start()
        monkeypatch.setenv("http_proxy", f"http://me:s%3Acret@127.0.0.1:{port}")
        pool = Pool("http://far.invalid:81/v1", {})
        assert (await pool.post(b"")).body == b"ok"
        assert plain.requests[0].startswith(b"POST http://far.invalid:81/v1 HTTP/1.1\r\nHost: far.invalid:81\r\n")
        assert b"\r\nProxy-Authorization: Basic bWU6czpjcmV0\r\n" in plain.requests[0]
        pool.close()
        server.close()

        # Through a tunnel; what comes out at its end is checked against the name that was asked for.
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
        monkeypatch.setattr(http, "_proxy_of", lambda address: http.urlsplit(f"http://127.0.0.1:{proxy_port}"))
        inner = Script(OK, context=served_by(certificate))
        server, port = await inner.start()
        asked: list[bytes] = []

        async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            if b"forbidden" in asked[-1]:
                writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                writer.close()
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

            async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                while data := await source.read(65536):
                    target.write(data)
                target.close()

            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

        proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
        proxy_port = proxy.sockets[0].getsockname()[1]
        pool = Pool("https://localhost/v1", {})
        assert (await pool.post(b"secret")).body == b"ok"
        assert asked[0].startswith(b"CONNECT localhost:443 HTTP/1.1\r\n")
        with pytest.raises(HTTPError, match=r"the proxy 127\.0\.0\.1 answers 403"):
            await Pool("https://forbidden.invalid/v1", {}).post(b"")
        pool.close()
        server.close()
        proxy.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_no_proxy_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert reply_to(OK).body == b"ok"
    monkeypatch.setenv("no_proxy", "inside.example")
    assert http._proxy_of(http.urlsplit("http://inside.example/")) is None
    assert http._proxy_of(http.urlsplit("http://outside.example/")) is not None
