"""The address of a server and its API key, with checks that neither is logged or saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, urlsplit

from introspect.core.errors import InputError, one_line
from introspect.core.redaction import is_secret_key


class Secret:
    """A text that is not shown when it is printed or logged, and cannot be copied or pickled."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> str:
        raise TypeError("a secret is never saved")


class Endpoint(NamedTuple):
    """A server's API.

    Attributes:
        base_url: of the API.
        key: API key; None sends none.
    """

    base_url: str
    key: Secret | None


class Server(Protocol):
    """A server that this process starts and stops."""

    def start(self) -> Endpoint:
        """Start it unless it is running, and wait until it answers."""
        ...

    def check(self) -> None:
        """Raise InputError if it was started and has exited."""
        ...

    def stop(self) -> None:
        """Stop it if it runs."""
        ...


def checked_address(base_url: str) -> str:
    """Return the address of an API unchanged.

    Raises:
        InputError: it is not an address, or contains a secret, which configs and logs would show.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"base_url is {one_line(base_url, 300)!r}, expected an address such as http://127.0.0.1:8000/v1"
        )
    if parts.username or parts.password:
        raise InputError("base_url holds a user name or a password, which logs would show: use api_key_env")
    if secret := next((name for name, _ in parse_qsl(parts.query) if is_secret_key(name)), None):
        raise InputError(
            f"base_url holds the secret {one_line(secret, 300)}, which configs would show: use api_key_env"
        )
    return base_url


def refuse_secrets(name: str, value: Any) -> None:
    """Refuse an option that contains a secret, because the store saves it with every response.

    Raises:
        InputError: naming the field.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if is_secret_key(str(key)):
                raise InputError(f"{name}.{key} looks like a secret, which would be saved with every answer")
            refuse_secrets(f"{name}.{key}", inner)
