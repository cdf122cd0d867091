"""Resolve every dependency anew and write the exact versions into `[tool.uv] constraint-dependencies`.

`python scripts/refresh_pins.py` (or `make pins`); needs only uv. The pins carry names and versions, no addresses and
no hashes, so they hold wherever the packages come from. Run the tests afterwards and commit pyproject.toml.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
PINS = re.compile(r"^constraint-dependencies = \[\n.*?^\]$", re.DOTALL | re.MULTILINE)
RESOLVE = ("uv", "lock", "--upgrade", "--quiet")
EXPORT = (
    *("uv", "export", "--frozen", "--quiet", "--all-extras", "--all-groups", "--no-emit-project"),
    *("--no-hashes", "--no-annotate", "--no-header"),
)


def with_pins(text: str, pins: list[str]) -> str:
    """Return the text of pyproject.toml with its pins replaced."""
    block = "\n".join(["constraint-dependencies = [", *(f'    "{pin}",' for pin in pins), "]"])
    text, count = PINS.subn(lambda _: block, text)
    if count != 1:
        raise SystemExit(f"{PROJECT}: expected one constraint-dependencies list, found {count}")
    return text


def resolve() -> list[str]:
    """Return `name==version` for the whole resolved set; markers are kept only where one name has several versions."""
    subprocess.run(RESOLVE, cwd=PROJECT.parent, check=True)
    lines = subprocess.run(EXPORT, cwd=PROJECT.parent, check=True, capture_output=True, text=True).stdout.splitlines()
    bare = [line.partition(";")[0].strip() for line in lines]
    names = [pin.partition("==")[0] for pin in bare]
    return [
        line.replace('"', "'") if names.count(name) > 1 else pin
        for line, pin, name in zip(lines, bare, names, strict=True)
    ]


def main() -> None:
    """Replace the pins; if the resolution fails, pyproject.toml is left as it was."""
    before = PROJECT.read_text(encoding="utf-8")
    PROJECT.write_text(with_pins(before, []), encoding="utf-8")
    after = before
    try:
        pins = resolve()
        after = with_pins(before, pins)
        sys.stdout.write(f"{len(pins)} packages pinned in {PROJECT.name}\n")
    finally:
        PROJECT.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
