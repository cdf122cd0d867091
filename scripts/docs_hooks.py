"""Pages of the documentation site that are made when it is built (hooks of mkdocs).

`index`, `contributing` and `changelog` are the Markdown files of the repository's root; `reference/configs` has every
setting of `configs/` with its comment; `reference/modules` leads to a page for each module, from its docstrings.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}

_LINE = re.compile(r"^(?P<indent> *)(?:- )?(?P<key>[^\s#:'\"\[{][^\s:]*|\"[^\"]+\"):(?: +(?P<rest>.*))?$")
_COMMENT = re.compile(r"(?:^|\s+)# ?(?P<comment>.*)$")


@dataclass(frozen=True, slots=True)
class Setting:
    """A line of a config: its dotted key, its value as written (empty for a section), and what the comment says."""

    key: str
    value: str
    comment: str


def settings_of(text: str) -> list[Setting]:
    """The settings of a YAML file, in its order; of lists only their own line."""
    found: list[Setting] = []
    parents: list[tuple[int, str]] = []
    above: list[str] = []
    block: int | None = None  # indent of the key whose value is a block of text
    for line in text.splitlines():
        if block is not None and (not line.strip() or len(line) - len(line.lstrip()) > block):
            continue
        block = None
        if line.strip().startswith("#"):
            above.append(line.strip().lstrip("#").strip())
            continue
        match = _LINE.match(line)
        if match and not line.lstrip().startswith("- "):
            indent = len(match["indent"])
            parents = [parent for parent in parents if parent[0] < indent]
            parents.append((indent, match["key"].strip('"')))
            value, comment = _split(match["rest"] or "")
            block = indent if value[:1] in ("|", ">") else None
            told = comment or (" ".join(above) if found else "")
            found.append(Setting(".".join(name for _, name in parents), value, told))
        above = []
    return found


def _split(rest: str) -> tuple[str, str]:
    """Value and comment of what stands behind a key; a # within quotes is no comment."""
    quoted = re.match(r"""("[^"]*"|'[^']*')\s*""", rest)
    start = quoted.end() if quoted else 0
    match = _COMMENT.search(rest, max(start - 1, 0) if quoted else 0)
    if match is None:
        return rest.strip(), ""
    return rest[: match.start()].strip(), match["comment"].strip()


def config_reference(configs: Path) -> str:
    """One page over all config groups: a table per file, a row per setting."""
    parts = [
        "# Settings",
        "Every file of `configs/`, every setting, its default and what it means. `python train.py --help` lists the"
        " choices of each group, `--cfg job` prints what a command line comes to.",
    ]
    folders = sorted({path.parent for path in configs.rglob("*.yaml")})
    for folder in folders:
        group = folder.relative_to(configs).as_posix()
        parts.append(f"## {'Commands' if group == '.' else f'{group}='}")
        for path in sorted(folder.glob("*.yaml")):
            text = path.read_text(encoding="utf-8")
            name = path.name if group == "." else f"{group}={path.stem}"
            parts.append(f"### `{name}`")
            parts += list(_about(text))
            rows = [setting for setting in settings_of(text) if setting.key != "defaults"]
            if rows:
                table = ["| setting | default | meaning |", "|---|---|---|"]
                parts.append("\n".join(table + [_row(setting) for setting in rows]))
    return "\n\n".join(parts) + "\n"


def _about(text: str) -> Iterator[str]:
    """The comment at the head of a file, if it has one: sentences, and indented commands as code."""
    head = list(takewhile(lambda line: line.startswith("#"), text.splitlines()))
    lines = [line[1:].removeprefix(" ") for line in head if not line.startswith("# @")]
    for is_code, part in groupby(lines, key=lambda line: line.startswith("  ")):
        told = [line.strip() for line in part]
        if any(told):
            yield "\n".join(["```", *told, "```"]) if is_code else _cell(" ".join(told))


def _row(setting: Setting) -> str:
    value = f"`{setting.value}`" if setting.value else ""
    return f"| `{setting.key}` | {value} | {_cell(setting.comment)} |"


def _cell(text: str) -> str:
    """Plain text in Markdown: nothing in it is markup."""
    return re.sub(r"([\\*_`\[\]])", r"\\\1", html.escape(text, quote=False)).replace("|", "&#124;")


def modules(source: Path) -> list[tuple[str, str]]:
    """Dotted name and first docstring line of every public module."""
    found = []
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not parts or any(part.startswith("_") for part in parts):
            continue
        told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found.append((".".join(parts), told.split("\n", 1)[0]))
    return found


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    made = {target: (ROOT / source).read_text(encoding="utf-8") for source, target in PAGES.items()}
    made["reference/configs.md"] = config_reference(ROOT / "configs")
    listed = modules(ROOT / "src")
    rows = [f"| [`{name}`](modules/{name}.md) | {_cell(told)} |" for name, told in listed]
    made["reference/modules.md"] = "\n".join(["# Modules\n", "| module | |", "|---|---|", *rows]) + "\n"
    for name, _ in listed:
        made[f"reference/modules/{name}.md"] = f"# {name}\n\n::: {name}\n"
    for target, content in made.items():
        files.append(File.generated(config, target, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between files of the repository become links between pages; those to code become plain text."""
    up = "../" * page.file.src_uri.count("/")  # from the page's folder to docs/
    for source, target in PAGES.items():
        markdown = markdown.replace(f"]({up}../{source})", f"]({up}{target})").replace(f"]({source})", f"]({target})")
    if page.file.src_uri in PAGES.values():
        markdown = markdown.replace("](docs/", "](")
    return re.sub(rf"\[([^\]]+)\]\({re.escape(up)}\.\./[^)]*\)", r"\1", markdown)
