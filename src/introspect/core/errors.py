"""The exceptions that end a run without a traceback."""

from __future__ import annotations

from introspect.core.redaction import redact


class InputError(Exception):
    """A mistake in an option, a file or a model that the user named.

    The message is one line that names the file, row, key or option at fault and says what was expected; the entry
    points print it without a traceback and exit with status 2.
    """


class Pruned(Exception):
    """A run of a search ended early, because others of the same age are better; it is no mistake and no failure."""


def one_line(message: BaseException | str, limit: int | None = None) -> str:
    """Return a message on one line: line breaks, control characters and runs of blanks as single blanks.

    Args:
        message: an exception or a text; what looks like a secret in it becomes `***`.
        limit: characters at most; a longer message is cut and ends with `…`.
    """
    text = str(message) if limit is None else str(message)[: 4 * limit]
    line = " ".join(redact("".join(c if c.isprintable() else " " for c in text)).split())
    return line if limit is None or len(line) <= limit else f"{line[: limit - 1]}…"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message that is not blank; its type where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
