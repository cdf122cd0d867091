"""The config of a run as it is logged, saved and shown: plain values without secrets; and the code that ran."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from introspect.core.redaction import redact

if TYPE_CHECKING:
    from rich.tree import Tree

_FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:\s*(\w+)\s*\}")


def resolved_config(cfg: DictConfig) -> dict[str, Any]:
    """Return the config as nested dicts and lists of plain values: interpolations resolved, secrets redacted.

    What `${oc.env:NAME}` stands for may be a secret under a harmless key: wherever its value appears, the interpolation
    takes its place, unless it has a default.
    """
    names = set(_FROM_ENVIRONMENT.findall(OmegaConf.to_yaml(cfg)))
    values = {name: os.environ.get(name, "") for name in sorted(names)}
    # Shorter values are user names and numbers, which occur in the middle of anything.
    hidden = {value: f"${{oc.env:{name}}}" for name, value in values.items() if len(value) >= 8}
    return redact(_replace(OmegaConf.to_container(cfg, resolve=True), hidden))


def _replace(value: Any, hidden: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replace(item, hidden) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, hidden) for item in value]
    if isinstance(value, str):
        for secret, name in hidden.items():
            value = value.replace(secret, name)
    return value


def config_tree(values: Mapping[str, Any]) -> Tree:
    """Return a tree with a branch per config group, its settings as YAML; settings of no group come last."""
    import yaml
    from rich.syntax import Syntax
    from rich.tree import Tree

    tree = Tree("config", guide_style="dim")
    for name, value in sorted(values.items(), key=lambda item: not isinstance(item[1], Mapping)):
        if isinstance(value, Mapping):
            text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True).rstrip()
            tree.add(name).add(Syntax(text, "yaml", background_color="default", word_wrap=True))
        else:
            tree.add(f"{name}: {value}")
    return tree


def code_version() -> dict[str, Any]:
    """Return the versions of this package, of Python and of main libraries, the commit, and whether files changed."""
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
    """Return the output of git; None without git or outside of a repository."""
    try:
        done = subprocess.run(["git", "-C", str(place), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
