"""The documentation site is built without a warning, from what is there, and needs no network to be read."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from tests.composing import compose_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "scripts" / "docs_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_hooks"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def keys(tree: Any, above: str = "") -> Iterator[str]:
    """Dotted keys of nested mappings; lists are values, and so are mappings in braces."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield f"{above}{key}"
            yield from keys(value, f"{above}{key}.")


def test_settings_and_their_comments_are_read(hooks: Any) -> None:
    text = """# What it is
a: 1 # one
b: "x # y" # two, with a : colon
# above
c:
  d: ${e.f} # three
  g: [1, 2]
k: |
  no: setting
h:
  - i: 0
  - j
"""
    assert [(s.key, s.value, s.comment) for s in hooks.settings_of(text)] == [
        ("a", "1", "one"),
        ("b", '"x # y"', "two, with a : colon"),
        ("c", "", "above"),
        ("c.d", "${e.f}", "three"),
        ("c.g", "[1, 2]", ""),
        ("k", "|", ""),
        ("h", "", ""),
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(ROOT / "configs").as_posix())
def test_every_setting_is_in_the_reference(hooks: Any, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = {setting.key for setting in hooks.settings_of(text)}
    # Mappings in braces are one line of the reference.
    inline = {s.key for s in hooks.settings_of(text) if s.value.startswith(("{", "["))}
    expected = {key for key in keys(yaml.safe_load(text)) if not any(key.startswith(f"{name}.") for name in inline)}
    assert found == expected


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="the site is built with mkdocs-material, of the dev group")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr, done.stderr[-3000:]
    return folder


def test_the_site_needs_no_network(site: Path) -> None:
    address = r"""=["']?(?:https?:)?//"""
    loads = re.compile(rf"<(?:script|img|iframe|source)[^>]*\ssrc{address}|<link[^>]*\shref{address}")
    canonical = re.compile(r"<link[^>]*rel=[\"']?(?:canonical|next|prev)[^>]*>")
    pages = list(site.rglob("*.html"))
    assert len(pages) > 150
    for page in pages:
        text = canonical.sub("", page.read_text(encoding="utf-8"))
        assert not loads.search(text), page


def test_pages_are_made_of_configs_and_docstrings(site: Path) -> None:
    settings = (site / "reference" / "configs.html").read_text(encoding="utf-8")
    assert "<code>datamodule.packing</code>" in settings or "<code>packing</code>" in settings
    packing = (site / "reference" / "modules" / "introspect.reasoning.packing.html").read_text(encoding="utf-8")
    assert "best-fit decreasing" in packing
    assert (site / "search" / "search_index.json").stat().st_size > 100_000
    assert "<h1" in (site / "index.html").read_text(encoding="utf-8")


def commands() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Every command of the README and the docs: where it stands, its script, its overrides; of sweeps the first job."""
    shown = re.compile(r"python (train|evaluate|dissect)\.py((?:[ \t]+(?:\\\n[ \t]*)?[^\s`#|]+)*)")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        if path.name == "extending.md":  # run as a whole by tests/test_extending.py
            continue
        for script, line in shown.findall(path.read_text(encoding="utf-8")):
            words = [word.strip("\"'") for word in line.replace("\\\n", " ").split()]
            # Left out: what the reader fills in, and what makes many jobs of one.
            overrides = [w for w in words if "=" in w and "…" not in w and not w.startswith(("hydra", "-"))]
            yield path.name, script, tuple(first_job(word) for word in overrides)


def first_job(override: str) -> str:
    """`a=1,2` -> `a=1`, as Hydra reads it."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return override
    first = parsed.value().start if parsed.is_interval_sweep() else next(parsed.sweep_string_iterator())
    return f"{override.split('=')[0]}={first}"


@pytest.mark.slow
def test_every_command_composes(tmp_path: Path) -> None:
    found = sorted(set(commands()))
    assert len(found) > 60
    faults = []
    for page, script, overrides in found:
        try:
            compose_config(script, list(overrides), tmp_path)
        except HydraException as error:
            faults.append(f"{page}: python {script}.py {' '.join(overrides)}: {str(error).splitlines()[0]}")
    assert not faults, "\n".join(faults)
