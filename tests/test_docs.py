"""The documentation site is built without a warning, from what is there, and needs no network to be read."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra.errors import HydraException

from tests.composing import compose_config
from tests.documented import documented, first_job
from tests.trying import has

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


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("scale.md", "[a](../CONTRIBUTING.md) [b](../src/x.py) [c](board.md)", "[a](contributing.md) b [c](board.md)"),
        (
            "tutorials/x.md",
            "[a](../../README.md) [b](../../src/x.py) ![c](../p.png)",
            "[a](../index.md) b ![c](../p.png)",
        ),
        ("index.md", "[a](docs/board.md#b) [b](CHANGELOG.md)", "[a](board.md#b) [b](changelog.md)"),
    ],
)
def test_links_lead_from_page_to_page(hooks: Any, page: str, text: str, expected: str) -> None:
    assert hooks.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri=page))) == expected


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
    packing = (site / "reference" / "modules" / "introspect.tuning.packing.html").read_text(encoding="utf-8")
    assert "best-fit decreasing" in packing
    assert (site / "search" / "search_index.json").stat().st_size > 100_000
    assert "<h1" in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_site_is_served(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the site is built with mkdocs-material, of the dev group")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "mkdocs", "serve", "--no-livereload", "--dev-addr", address]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
        )
    try:
        page = fetched(f"http://{address}/index.html", server)
    finally:
        server.terminate()
        server.wait(30)
    assert "<h1" in page, (tmp_path / "log").read_text()


def fetched(address: str, server: subprocess.Popen[bytes]) -> str:
    """A page of a server that is about to start."""
    end = time.monotonic() + 600
    while server.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return str(answer.read().decode())
        except OSError:
            time.sleep(0.5)
    return ""


@pytest.mark.slow
def test_every_command_composes(tmp_path: Path) -> None:
    """Those that need what a test does not have, too; of sweeps the first job."""
    found = {(command.page, command.words) for command in documented() if command.page != "docs/extending.md"}
    faults, composed = [], 0
    for page, (program, script, *rest) in sorted((page, words) for page, words in found if len(words) > 1):
        if program != "python" or script not in ("train.py", "evaluate.py", "dissect.py"):
            continue
        # Left out: what the reader fills in, and what makes many jobs of one.
        given = [word for word in rest if "=" in word and "…" not in word and not word.startswith(("hydra", "-"))]
        try:
            compose_config(script.removesuffix(".py"), [first_job(word) for word in given], tmp_path)
            composed += 1
        except HydraException as error:
            faults.append(f"{page}: {program} {script} {' '.join(rest)}: {str(error).splitlines()[0]}")
    assert not faults, "\n".join(faults)
    assert composed > 60


# Together they have every setting that the FAQ may name.
COMMANDS = [
    ("train", ["data=hotpotqa", "teacher=openai_api", "judge=openai_api", "logger=many"]),
    ("train", ["engine=vllm", "hydra/launcher=basic"]),
    ("train", ["experiment=crd_logit", "data=cifar10"]),
    ("evaluate", ["ckpt_path=x"]),
    ("dissect", ["ckpt_path=x", "layer=x"]),
    ("dissect", ["ckpt_path=x", "layer=x", "network=backbone", "concepts=broden"]),
]


@pytest.mark.slow
def test_settings_that_the_faq_names_are_there(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    spans = " ".join(re.findall(r"`([^`]+)`", text))
    named = set(re.findall(r"(?<![\w.+/-])([a-z_]+(?:\.[a-z_]+)+)=", spans))
    assert len(named) > 30
    composed = [compose_config(verb, overrides, tmp_path) for verb, overrides in COMMANDS]
    assert sorted(key for key in named if not any(has(cfg, key) for cfg in composed)) == []
