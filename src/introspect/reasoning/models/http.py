"""HTTP/1.1 over kept connections, for one address: as little as thousands of requests in flight need, and no more.

The general clients spend most of a small exchange on what is not needed here (cookies, redirects, hooks, settings of
each request): `benchmarks/client.py` shows what that costs. Replies are untrusted: they are read by `httptools`, the
parser of Node.js, and bounded.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import httptools

_LARGEST_HEAD = 64 * 2**10


class HTTPError(Exception):
    """The connection failed, or what came is not HTTP."""


class Response(NamedTuple):
    """What a server sent. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection(asyncio.Protocol):
    """One connection, for one exchange at a time. The event loop and the parser call what has no underscore."""

    def __init__(self, largest: int, *, only_heads: bool = False) -> None:
        """`largest` bounds a body, in bytes; with `only_heads`, what follows a head is not HTTP any more."""
        self._largest, self._only_heads = largest, only_heads
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.Future[Response] | None = None
        self._watcher: asyncio.TimerHandle
        self.transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser
        self.is_open = False
        self.last_heard = 0.0  # in the loop's time
        self._begin()

    async def exchange(self, message: bytes, silence_s: float) -> Response:
        """Send a request, and wait for the whole response.

        Raises:
            TimeoutError: nothing came for `silence_s` seconds.
            HTTPError: the connection was closed too early, or what came is not HTTP.
        """
        if not self.is_open:
            raise HTTPError("the connection was closed")
        self._turn = self._loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self.last_heard = self._loop.time()
        self._watcher = self._loop.call_later(silence_s, self._watch, silence_s)
        self.transport.write(message)
        try:
            return await self._turn
        except BaseException:
            self.close()  # what is still to come belongs to nobody
            raise
        finally:
            self._watcher.cancel()
            self._turn = None

    def close(self) -> None:
        """Close it at once."""
        self.is_open = False
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self.transport = transport  # type: ignore[assignment]  # a stream's, as the protocol is one
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone; which is how a body without a length ends."""
        self.is_open = False
        if self._is_headed and not {"content-length", "transfer-encoding"} & self._headers.keys():
            self._finish()
        else:
            got = f"{self._size} bytes of a body" if self._is_headed else "no answer"
            self._fail(HTTPError(f"{exc or 'the connection was closed'}, with {got}"))

    def data_received(self, data: bytes) -> None:
        """Something came."""
        self.last_heard = self._loop.time()
        if self._turn is None or self._turn.done():
            self.close()  # nothing was asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(HTTPError("the server changed the protocol"))
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._fail(cause if isinstance(cause, HTTPError) else HTTPError(f"not HTTP: {error}"))

    def on_message_begin(self) -> None:
        """A response begins; a second one to the same request does not belong to it."""
        if self._turn is None or self._turn.done():
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; of one that comes twice, both values."""
        self._grow(len(name) + len(value), _LARGEST_HEAD, "a head")
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._is_headed, self._size = True, 0
        if self._only_heads:
            self._finish()

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        self._grow(len(data), self._largest, "a reply")
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        """The response is complete; an informational one (1xx) is not the one that was asked for."""
        if 100 <= self._parser.get_status_code() < 200:
            self._begin()
            return
        if not self._parser.should_keep_alive():
            self.close()
        self._finish()

    def _begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []
        self._size, self._is_headed = 0, False

    def _grow(self, size: int, largest: int, what: str) -> None:
        self._size += size
        if self._size > largest:
            raise HTTPError(f"{what} of more than {largest} bytes")

    def _finish(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(Response(self._parser.get_status_code(), self._headers, b"".join(self._chunks)))
        self._begin()

    def _fail(self, error: Exception) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(error)
        self.close()

    def _watch(self, silence_s: float) -> None:
        """End a silence that is too long; one that was broken is looked at again when it would be."""
        left = self.last_heard + silence_s - self._loop.time()
        if left > 0:
            self._watcher = self._loop.call_later(left, self._watch, silence_s)
        else:
            self._fail(TimeoutError(f"nothing came for {silence_s:g} s"))


class Pool:
    """Posts to one address, on connections that are kept and used again; as many as there are posts at a time.

    Made and used in one event loop. Proxies are those of the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).

    Args:
        url: where everything is posted to.
        headers: of every request.
        connect_s: seconds that making a connection may take.
        silence_s: seconds without a byte that end an exchange.
        idle_s: seconds after which a connection is not used again: servers close them after five or more.
        largest: bytes of a reply.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        connect_s: float = 30.0,
        silence_s: float = 600.0,
        idle_s: float = 4.0,
        largest: int = 64 * 2**20,
    ) -> None:
        self._address = urlsplit(url)
        self._host = self._address.hostname or ""
        self._ssl = ssl.create_default_context() if self._address.scheme == "https" else None
        self._port = self._address.port or (443 if self._ssl else 80)
        self._proxy = _proxy_of(self._address)
        self._head = self._request_head(headers)
        self._connect_s, self._silence_s, self._idle_s, self._largest = connect_s, silence_s, idle_s, largest
        self._free: list[Connection] = []
        self._all: set[Connection] = set()

    async def post(self, body: bytes) -> Response:
        """Post a body.

        Raises:
            TimeoutError: connecting took too long, or nothing came for too long.
            HTTPError, OSError: the connection failed; `ssl.SSLCertVerificationError` if the server is not who it says.
        """
        connection = self._take() or await self._connect()
        message = b"%sContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)
        try:
            return await connection.exchange(message, self._silence_s)
        finally:
            if connection.is_open:
                self._free.append(connection)
            else:
                self._all.discard(connection)

    def close(self) -> None:
        """Close every connection."""
        for connection in self._all:
            connection.close()
        self._all.clear()
        self._free.clear()

    def _take(self) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - self._idle_s
        while self._free:
            connection = self._free.pop()  # the one that was used last
            if connection.is_open and connection.last_heard >= oldest:
                return connection
            connection.close()
            self._all.discard(connection)
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_s):
            if self._proxy is not None and self._ssl is not None:
                connection = await self._tunnel(self._proxy, self._ssl)
            elif self._proxy is not None:
                host, port = self._proxy.hostname or "", self._proxy.port or 80
                _, connection = await loop.create_connection(self._new, host, port)
            else:
                _, connection = await loop.create_connection(self._new, self._host, self._port, ssl=self._ssl)
        self._all.add(connection)
        return connection

    async def _tunnel(self, proxy: SplitResult, context: ssl.SSLContext) -> Connection:
        """Ask a proxy for a way through, and speak TLS with who is at its end."""
        loop = asyncio.get_running_loop()
        outer = Connection(self._largest, only_heads=True)
        await loop.create_connection(lambda: outer, proxy.hostname or "", proxy.port or 80)
        target = f"{self._host}:{self._port}"
        request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{_credentials(proxy)}\r\n"
        answer = await outer.exchange(request.encode("latin-1"), self._connect_s)
        if answer.status != 200:
            outer.close()
            raise HTTPError(f"the proxy {proxy.hostname} answers {answer.status}")
        inner = self._new()
        transport = await loop.start_tls(outer.transport, inner, context, server_hostname=self._host)
        assert transport is not None
        inner.connection_made(transport)
        return inner

    def _new(self) -> Connection:
        return Connection(self._largest)

    def _request_head(self, headers: Mapping[str, str]) -> bytes:
        """All of a request that is the same every time."""
        address, proxied = self._address, self._proxy is not None and self._ssl is None
        path = f"{address.path or '/'}{'?' if address.query else ''}{address.query}"
        target = f"{address.scheme}://{address.netloc}{path}" if proxied else path
        credentials = _credentials(self._proxy) if proxied and self._proxy is not None else ""
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"Accept-Encoding": "identity", **headers}.items())
        return f"POST {target} HTTP/1.1\r\nHost: {address.netloc}\r\n{credentials}{lines}".encode("latin-1")


def _proxy_of(address: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for an address; none stands between us and ourselves."""
    host = address.hostname or ""
    if host in ("127.0.0.1", "::1", "localhost") or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(address.scheme)
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else None


def _credentials(proxy: SplitResult) -> str:
    """The header that a proxy with a user and a password wants."""
    if not proxy.username:
        return ""
    words = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return f"Proxy-Authorization: Basic {base64.b64encode(words.encode()).decode()}\r\n"
