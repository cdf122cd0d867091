"""A page of ours in headless Chromium, and what it must not do."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HOSTILE = "<script>document.title='taken over'</script>\"'><img src=x onerror=alert(1)>"


@dataclass
class Opened:
    """The page, and what went wrong: script errors, errors in the console, dialogs, requests that leave the disk."""

    page: Any
    errors: list[str] = field(default_factory=list)

    def texts(self, selector: str) -> list[str]:
        return [element.inner_text() for element in self.page.query_selector_all(selector)]

    def until(self, condition: str, seconds: float = 30.0) -> None:
        """Wait for an expression to be true. Playwright's own way would need the page to allow `eval`."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, f"never true: {condition}"
            self.page.wait_for_timeout(50)


@contextmanager
def opened(file: Path, **options: Any) -> Iterator[Opened]:
    """Open a file; at the end nothing may have gone wrong."""
    playwright = pytest.importorskip("playwright.sync_api")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page(**options)
        found = Opened(page)
        page.on("pageerror", lambda error: found.errors.append(str(error)))
        page.on("console", lambda message: found.errors.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: (found.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))

        def check(request: Any) -> None:
            if not request.url.startswith(("file:", "data:", "blob:")):
                found.errors.append(f"request: {request.url}")

        page.on("request", check)
        page.goto(file.as_uri())
        yield found
        browser.close()
    assert found.errors == []
