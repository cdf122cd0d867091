"""A trace in paragraphs that a judge can point at.

A paragraph ends at a blank line. Markers `[[M01]]`, `[[M02]]`, … stand after all paragraphs but the last; in a judge's
reply `[[M_END]]` is the last paragraph and `[[M00]]` none. The format is that of the reference implementation
(`tasks/qa/_marker_utils.py` of metacognitive-behavioral-tuning/MBT), except that a marker which is not in the trace is
refused instead of taken for the last paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

BLANK_LINE = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_MARKER = re.compile(r"(?<![A-Za-z0-9])M(_END|_?\d{1,6})(?![A-Za-z0-9])", re.IGNORECASE)
# What a trace must not be able to say: a marker of its own, or the end of the block in which it is shown.
_OUR_MARKER = re.compile(r"\[\[\s*(M_?(?:END|\d+))\s*\]\]", re.IGNORECASE)
_OUR_TAG = re.compile(r"<(\s*/?\s*(?:question|accepted_answers|given_answer|trace)\s*)>", re.IGNORECASE)


def paragraphs(trace: str) -> list[str]:
    """Cut a trace at blank lines, and strip the parts; none for an empty trace."""
    return [part.strip() for part in BLANK_LINE.split(trace) if part.strip()]


def sentences(paragraph: str) -> list[str]:
    """A paragraph cut at white space after `.`, `!` or `?`.

    The reference's rule, so that counts compare: "Dr. Smith" is cut too, and a sentence that ends in another sign is
    not.
    """
    return [part for part in _SENTENCE_END.split(paragraph.strip()) if part]


def sentence_counts(trace: str) -> list[int]:
    """Count the sentences of each paragraph, at least 1."""
    return [max(1, len(sentences(paragraph))) for paragraph in paragraphs(trace)]


def sentences_through(counts: Sequence[int], paragraph: int) -> int:
    """Count the sentences up to the end of a paragraph (from 1); -1 for paragraph 0, which stands for never."""
    return sum(counts[:paragraph]) if paragraph > 0 else -1


def defuse(text: str) -> str:
    """Escape the text of a student for a judge: what looks like our markers or tags is spelt in parentheses."""
    return _OUR_TAG.sub(r"(\1)", _OUR_MARKER.sub(r"(\1)", text))


def marked(trace: str) -> str:
    """Put a marker after each paragraph of a trace but the last."""
    parts = paragraphs(defuse(trace))
    lines = [line for number, part in enumerate(parts, start=1) for line in (part, f"[[M{number:02d}]]")]
    return "\n\n".join(lines[:-1])


def find_markers(text: str, count: int) -> list[int] | None:
    """Give the paragraphs that the markers in a text stand for, from 1 to `count`; 0 for M00; None if one is missing.

    Brackets do not matter, nor do upper and lower case.
    """
    names = [name.strip("_").upper() for name in _MARKER.findall(text)]
    found = [count if name == "END" else int(name) for name in names]
    return found if all(number <= count for number in found) else None


def without_markers(text: str) -> str:
    """Remove the markers from a text."""
    return _MARKER.sub(" ", text)
