"""The one exception for mistakes in what the user gave."""

from __future__ import annotations


class InputError(Exception):
    """A mistake in an option, a file or a model that the user named.

    The message is one line that names the file, row, key or option at fault and says what was expected; the entry
    points print it without a traceback and exit with status 2.
    """
