"""Keeping secrets out of everything that is logged or saved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "***"

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_SECRET_WORDS = {"apikey", "apikeys", "secret", "secrets", "password", "passwords", "passwd", "authorization"}
_SECRET_ENDINGS = {"token", "key", "credential", "credentials"}
# Special tokens of a tokenizer and sort keys are no secrets.
_HARMLESS_WORDS = {"pad", "eos", "bos", "unk", "mask", "stop", "sep", "cls", "special", "public", "sort", "index"}
_SECRET_VALUE = re.compile(
    r"\b(?:sk|pk|glpat|xox[abp]|nvapi)-(?=[\w-]*\d)[\w-]{16,}"  # services' own prefixes
    r"|\b(?:hf|gh[opsu]|github_pat|gsk|wandb_v1)_\w{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|\bAIza[\w-]{30,}"
    r"|\b(?:Bearer|Basic)\s+[\w.~+/=-]{8,}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user and password in an address
)
_INTERPOLATION = re.compile(r"\$\{[^{}]+\}")


def is_secret_key(name: str) -> bool:
    """Say whether a setting of this name is a secret: `api_key`, `HF_TOKEN`, `Authorization`, but not `max_tokens`."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or _HARMLESS_WORDS & set(words):
        return False
    return words[-1] in _SECRET_ENDINGS or words[-2:] == ["api", "keys"] or bool(_SECRET_WORDS & set(words))


def redact(value: Any) -> Any:
    """Copy nested mappings and lists with `***` in place of every secret.

    A text is a secret if the name of its setting, or of one around it, says so (`is_secret_key`); a part of a text is
    one if it looks like a key of a known service. Numbers, booleans and None stay, as does an unresolved `${...}`,
    which names the place of a secret and does not contain it.
    """
    return _redact(value, secret=False)


def _redact(value: Any, *, secret: bool) -> Any:
    if isinstance(value, Mapping):
        return {key: _redact(item, secret=secret or is_secret_key(str(key))) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact(item, secret=secret) for item in value]
    if not isinstance(value, str) or not value or _INTERPOLATION.fullmatch(value):
        return value
    return REDACTED if secret else _SECRET_VALUE.sub(REDACTED, value)
