"""The commands of the documentation: where they stand, and which are marked as not run by a test.

A comment above a block (a fence, a table, a paragraph, a list) marks its commands:

    <!-- not run: needs a GPU -->                        all of them
    <!-- not run: needs a server: judge=gemma_31b -->    those that have these words

A command that is marked on one page is marked on all.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.composing import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
REASONS = {"needs a GPU", "needs a hub", "needs a server", "needs a cluster", "takes hours", "measures time"}
PROGRAMS = ("python", "pytest", "mkdocs", "pip", "uv", "vllm", "wandb", "make")
SHELLS = ("", "bash", "sh", "console")

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_SPAN = re.compile(r"`([^`\n]+)`")
_MARK = re.compile(r"^<!-- not run: (?P<reason>[^:>]+?)(?:: (?P<words>[^>]+?))? -->$")
_SETTING = re.compile(r"^[A-Z_]+=")


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its words, as a shell reads them, its page, and why it is not run (None: a test runs it)."""

    page: str
    words: tuple[str, ...]
    reason: str | None = None

    @property
    def text(self) -> str:
        """The words again, in one form wherever it stands."""
        return " ".join(self.words)


@dataclass(frozen=True, slots=True)
class Mark:
    """A reason, and words that a command must have for it to hold (none: it holds for all of the block)."""

    reason: str
    words: str | None

    def holds(self, command: tuple[str, ...]) -> bool:
        """Whether a command of the block is marked."""
        return self.words is None or set(shlex.split(self.words)) <= set(command)


def documented() -> list[Command]:
    """Every command of the README and the docs, in their order."""
    return [command for page in PAGES for command in commands_of(page.read_text(encoding="utf-8"), name(page))]


def name(page: Path) -> str:
    """`docs/scale.md`."""
    return page.relative_to(ROOT).as_posix()


def commands_of(text: str, page: str) -> Iterator[Command]:
    """The commands of a page.

    Raises:
        AssertionError: a mark has an unknown reason or marks nothing; a line of a `bash` fence is no command.
    """
    for marks, block in _blocks(text):
        idle = list(marks)
        for words in _commands(block, page):
            holding = [mark for mark in marks if mark.holds(words)]
            idle = [mark for mark in idle if mark not in holding]
            yield Command(page, words, holding[0].reason if holding else None)
        assert not idle, f"{page}: {idle} marks no command"


def _blocks(text: str) -> Iterator[tuple[list[Mark], str]]:
    """The blocks of a page, each with the marks on the lines above it; a fence is one block, whatever is in it."""
    fences = [match.group() for match in _FENCE.finditer(text)]
    hidden = _FENCE.sub("\x00", text)
    marks: list[Mark] = []
    for part in re.split(r"\n\s*\n|(?=\x00)|(?<=\x00)", hidden):
        lines = part.strip().splitlines()
        found = [match for line in lines if (match := _MARK.match(line.strip()))]
        for match in found:
            assert match["reason"] in REASONS, f"not run: {match['reason']}: expected one of {sorted(REASONS)}"
            marks.append(Mark(match["reason"], match["words"]))
        rest = "\n".join(line for line in lines if not line.strip().startswith("<!--"))
        if rest:
            yield marks, fences.pop(0) if rest == "\x00" else rest
            marks = []


def _commands(block: str, page: str) -> Iterator[tuple[str, ...]]:
    """The commands of one block."""
    fence = _FENCE.match(block)
    if fence is None:
        candidates = [span for span in _SPAN.findall(block) if len(span.split()) > 1]
    elif fence["language"] in SHELLS:
        candidates = fence["body"].replace("\\\n", " ").splitlines()
    else:
        candidates = []
    for candidate in candidates:
        for line in candidate.split("&&"):
            words = _words(line)
            if words:
                yield words
            else:
                bare = line.split("#")[0].strip()
                assert not (fence and fence["language"] and bare), f"{page}: not a command: {line}"


def _words(line: str) -> tuple[str, ...]:
    """A line without its comment, as words; nothing if it calls none of the programs."""
    start = next((word for word in line.split() if not _SETTING.match(word)), "")
    if start not in PROGRAMS:
        return ()
    words = tuple(shlex.split(line.replace("\\|", "|"), comments=True))
    if words[:2] != ("uv", "run"):
        return words
    called = words[2:]  # `uv run train.py …` is `python train.py …`, and `uv run` alone is no command
    return ("python", *called) if called and called[0].endswith(".py") else called


def first_job(override: str) -> str:
    """`a=1,2` -> `a=1`, as Hydra reads it."""
    return f"{override.split('=')[0]}={values[0]}" if (values := sweep_values(override)) else override


def sweep_values(override: str) -> list[str]:
    """`a=1,2` -> 1, 2; of a range its start; nothing if it is one value."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return []
    return [str(parsed.value().start)] if parsed.is_interval_sweep() else list(parsed.sweep_string_iterator())
