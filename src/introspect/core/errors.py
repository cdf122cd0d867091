"""The exceptions that end a run without a traceback."""

from __future__ import annotations


class InputError(Exception):
    """A mistake in an option, a file or a model that the user named.

    The message is one line that names the file, row, key or option at fault and says what was expected; the entry
    points print it without a traceback and exit with status 2.
    """


class Pruned(Exception):
    """A run of a search ended early, because others of the same age are better; it is no mistake and no failure."""
