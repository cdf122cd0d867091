"""What a run was made of, as it is logged and saved: the config as plain values, without secrets."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from introspect.core.redaction import redact

_FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:\s*(\w+)\s*\}")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as nested dicts and lists of plain values: interpolations resolved, secrets redacted.

    What `${oc.env:NAME}` stands for may be a secret under an innocent key: wherever its value appears, the
    interpolation stands in its place, unless it comes with a default.
    """
    names = set(_FROM_ENVIRONMENT.findall(OmegaConf.to_yaml(cfg)))
    values = {name: os.environ.get(name, "") for name in sorted(names)}
    # Shorter values are user names and numbers, which would be found in the middle of anything.
    hidden = {value: f"${{oc.env:{name}}}" for name, value in values.items() if len(value) >= 8}
    return redact(_replace(OmegaConf.to_container(cfg, resolve=True), hidden))


def code() -> dict[str, Any]:
    """What ran: versions of this package, of Python and of the libraries that decide, the commit, if changed since."""
    from introspect import __version__

    place = Path(__file__).resolve().parent
    changes = _git(place, "status", "--porcelain", "--untracked-files=no")
    libraries = {name: _version(name) for name in ("torch", "lightning", "transformers")}
    return {
        "introspect": __version__,
        "commit": _git(place, "rev-parse", "HEAD"),
        "changed": None if changes is None else changes != "",
        "python": platform.python_version(),
        **libraries,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(place: Path, *words: str) -> str | None:
    """What git says; None without git or outside of a repository."""
    try:
        done = subprocess.run(["git", "-C", str(place), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _replace(value: Any, hidden: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replace(item, hidden) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, hidden) for item in value]
    if isinstance(value, str):
        for secret, name in hidden.items():
            value = value.replace(secret, name)
    return value
