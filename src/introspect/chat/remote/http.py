"""HTTP POST to one address through aiohttp, with the settings that thousands of chat requests in flight need."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp

from introspect.core.errors import InputError

_LARGEST_HEADER = 64 * 2**10


class Response(NamedTuple):
    """What a server sent.

    Attributes:
        status: HTTP status code.
        headers: by name; upper and lower case are the same.
        body: at most as long as the connection allows.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connections:
    """Keep-alive connections to one address, as many as there are requests in flight.

    Created and used in one event loop. Redirects are not followed, cookies are ignored, and no `.netrc` is read.

    Args:
        url: address of every request.
        headers: headers of every request.
        connect_s: seconds that establishing a connection may take.
        silence_s: seconds without a byte from the server that end a request.
        idle_s: seconds after which a connection is not reused; servers close idle ones after five or more.
        largest: bytes that a body may have.
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
        self._url, self._largest = url, largest
        # A context of our own obeys SSL_CERT_FILE whenever it is set; aiohttp reads it when it is imported.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=idle_s, ssl=ssl.create_default_context()),
            headers={"Accept-Encoding": "identity", **headers},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=silence_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            max_field_size=_LARGEST_HEADER,
            proxy=proxy_for(url),
        )

    async def post(self, body: bytes) -> Response:
        """Send a body and read the whole response.

        Raises:
            TimeoutError: connecting took too long, or nothing came for too long.
            aiohttp.ClientError, OSError: the connection failed, or the response is not HTTP or too large;
                `ssl.SSLCertVerificationError` if the server's certificate is not valid for its name.
        """
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                chunks, size = [], 0
                async for chunk in response.content.iter_any():
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > self._largest:
                        raise aiohttp.ClientPayloadError(f"a reply of more than {self._largest} bytes")
                return Response(response.status, response.headers, b"".join(chunks))
        except aiohttp.ClientHttpProxyError as error:
            # Its own text has the proxy's address with the password in it.
            raise aiohttp.ClientConnectionError(f"the proxy answers {error.status}") from None

    async def __aenter__(self) -> Connections:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()


def proxy_for(url: str) -> str | None:
    """The proxy that the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY) names for an address; None for this machine.

    Raises:
        InputError: it is not an HTTP proxy.
    """
    address = urlsplit(url)
    host = address.hostname or ""
    if host in ("127.0.0.1", "::1", "localhost") or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy and not proxy.startswith("http://"):
        kind = proxy.partition("://")[0]
        raise InputError(
            f"{address.scheme}_proxy names a proxy of kind {kind}, expected http://…; NO_PROXY={host} goes without"
        )
    return proxy or None
