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
