"""How a judge's reply becomes a judgment.

A reply is read tolerantly where its meaning is plain (bold type, bare markers, "90%", fields on one line) and strictly
where it is not: a field that is missing, contradictory or out of range makes the reply `Unparsed`. An unparsed reply is
no score: it is requested once more, then counted and left out, never taken for 0 or for a default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from introspect.evaluation.judging.judgments import (
    HIGHEST_LEVEL,
    PHASES,
    AnswerHit,
    Correctness,
    Effective,
    Grade,
    Metacognition,
    Profile,
    Quality,
    Result,
    Unparsed,
)
from introspect.oracle.paragraphs import find_markers, without_markers

_GRADES: dict[str, Grade] = {"A": "correct", "B": "incorrect", "C": "not_attempted"}
_GRADE = re.compile(
    r"\W*(?:(?:GRADE|ANSWER|VERDICT)\W*:\W*)?(?:([ABC])\b)?[\W_]*(?:(CORRECT|INCORRECT|NOT[ _]ATTEMPTED)\b)?\W*",
    re.IGNORECASE,
)
_YES_NO = re.compile(r"\W*(?:[A-Z][A-Z_ ]*:\W*)?(YES|NO)\b[*_`\"']*\s*(?:$|[.,;:!(–—-].*)", re.IGNORECASE)

# Emphasis and quotes around a value; brackets are left to those who read it.
_MARKUP = " \t\r\n*_`\"'<>"
_NOTHING = {"NONE", "NEVER", "NIL", "N/A", "[]", "-"}
_REMARK = re.compile(r"\([^()]*\)")
# The signs of a list, too; between two markers on a line a dash means a range, which is no list of markers.
_BETWEEN_MARKERS = re.compile(r"(?:^|\n)[ \t]*[-•+][ \t]|\band\b|[\s\[\],;&/.*_`<>\"']", re.IGNORECASE)


class _UnreadableError(Exception):
    """Carries the reason for an `Unparsed` out of the helpers below."""


def parse_reply(judge: str, reply: str, paragraphs: int = 0) -> Result | Unparsed:
    """Read a judge's reply.

    Args:
        judge: the judge's name.
        reply: the text of its reply.
        paragraphs: how many the trace has that the reply is about; markers point at them.
    """
    try:
        if not reply.strip():
            return Unparsed("empty")
        return _PARSERS[judge](reply, paragraphs)
    except _UnreadableError as error:
        return Unparsed(str(error))


def _correctness(reply: str, paragraphs: int) -> Correctness:
    """`A`, `B` or `C` on the first line, with or without the word that it stands for, or that word alone."""
    found = _GRADE.fullmatch(_first_line(reply))
    letter, word = found.groups("") if found else ("", "")
    word = word.lower().replace(" ", "_")
    named = {grade for sign, grade in _GRADES.items() if letter.upper() == sign or word == grade}
    if len(named) != 1:
        raise _UnreadableError("no single grade")
    return Correctness(named.pop())


def _answer_hit(reply: str, paragraphs: int) -> AnswerHit:
    """`YES` or `NO` at the start of the first line; grounds that follow are not read."""
    line = _first_line(reply)
    found = _YES_NO.fullmatch(line)
    if found is None or {"YES", "NO"} <= set(re.findall(r"\w+", line)):
        raise _UnreadableError("neither YES nor NO")
    return AnswerHit(found[1].upper() == "YES")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


def _profile(reply: str, paragraphs: int) -> Profile:
    """The four lines of an RRP reply; the notes are for people."""
    names = ("ANSWER_PARAGRAPH_MARKER", "REDUNDANT_PARAGRAPH_MARKERS", "CONFIDENCE")
    answer, redundant, confidence = _fields(reply, names)
    return Profile(
        first_correct=_one_marker(answer, paragraphs, names[0]),
        redundant=_markers(redundant, paragraphs, names[1]),
        confidence=_fraction(confidence),
    )


def _quality(reply: str, paragraphs: int) -> Quality:
    """The three lines of an MQI reply."""
    level, phases, confidence = _fields(reply, ("L_OBS", "PHASES", "CONFIDENCE"))
    return Quality(_level(level, "L_OBS"), _phases(phases), _fraction(confidence))


def _effective(reply: str, paragraphs: int, *, name: str) -> Effective:
    """The marker of the last paragraph before overthinking, or before stagnation."""
    (marker,) = _fields(reply, (name,))
    return Effective(_one_marker(marker, paragraphs, name))


def _metacognition(reply: str, paragraphs: int) -> Metacognition:
    """A level from 0 to 5."""
    (level,) = _fields(reply, ("SCORE",))
    return Metacognition(_level(level, "SCORE"))


_PARSERS: Mapping[str, Callable[[str, int], Result]] = {
    "correctness": _correctness,
    "answer_hit": _answer_hit,
    "rrp": _profile,
    "mqi": _quality,
    "overthinking": partial(_effective, name="LAST_NEEDED_MARKER"),
    "underthinking": partial(_effective, name="LAST_USEFUL_MARKER"),
    "metacognition": _metacognition,
}

# Every field that a prompt asks for: a value ends where the next field begins, on the same line or another.
_FIELDS = (
    *("ANSWER_PARAGRAPH_MARKER", "REDUNDANT_PARAGRAPH_MARKERS", "LAST_NEEDED_MARKER", "LAST_USEFUL_MARKER"),
    *("L_OBS", "PHASES", "SCORE", "CONFIDENCE", "NOTES"),
)
_FIELD = re.compile(rf"(?<![A-Za-z_])({'|'.join(_FIELDS)})[ \t*_`\"']*[:=]", re.IGNORECASE)


def _fields(reply: str, names: Sequence[str]) -> list[str]:
    """The values of the named fields, which must each be there, not be empty, and not be given twice differently."""
    found = list(_FIELD.finditer(reply))
    values: dict[str, set[str]] = {}
    for match, following in zip(found, [*found[1:], None], strict=False):
        end = following.start() if following else len(reply)
        value = _REMARK.sub(" ", reply[match.end() : end]).strip(_MARKUP).rstrip(_MARKUP + ".;,")
        values.setdefault(match[1].upper(), set()).add(value)
    for name in names:
        if name not in values:
            raise _UnreadableError(f"no {name}")
        if len(values[name]) > 1:
            raise _UnreadableError(f"{name} given twice")
        if values[name] == {""}:
            raise _UnreadableError(f"{name} is empty")
    return [values[name].pop() for name in names]


def _one_marker(value: str, paragraphs: int, name: str) -> int:
    if value.upper() in _NOTHING:
        return 0
    found = find_markers(value, paragraphs)
    if found is None:
        raise _UnreadableError(f"{name} is not in the trace")
    if len(set(found)) != 1:
        raise _UnreadableError(f"{name} is not one marker")
    return found[0]


def _markers(value: str, paragraphs: int, name: str) -> tuple[int, ...]:
    if value.upper() in _NOTHING:
        return ()
    found = find_markers(value, paragraphs)
    if found is None or 0 in found:
        raise _UnreadableError(f"{name} is not in the trace")
    if not found or _BETWEEN_MARKERS.sub("", without_markers(value)):
        raise _UnreadableError(f"{name} is no list of markers")
    return tuple(sorted(set(found)))


def _level(value: str, name: str) -> int:
    found = re.fullmatch(rf"[\[(]?(-?\d+)(?:\s*(?:/|out of)\s*{HIGHEST_LEVEL})?[\])]?", _first_line(value))
    if not found:
        raise _UnreadableError(f"{name} is no whole number")
    if not 0 <= int(found[1]) <= HIGHEST_LEVEL:
        raise _UnreadableError(f"{name} is not from 0 to {HIGHEST_LEVEL}")
    return int(found[1])


def _phases(value: str) -> tuple[int, ...]:
    if value.upper() in _NOTHING:
        return ()
    numbers = re.sub(r"\band\b|[\[\]]", " ", value).strip()
    if not re.fullmatch(r"\d+(?:[\s,;&]+\d+)*", numbers):
        raise _UnreadableError("PHASES is no list of numbers")
    found = {int(number) for number in re.findall(r"\d+", numbers)}
    if not found <= set(range(1, len(PHASES) + 1)):
        raise _UnreadableError(f"PHASES are not from 1 to {len(PHASES)}")
    return tuple(sorted(found))


def _fraction(value: str) -> float:
    found = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+))\s*(%?)", _first_line(value).strip(_MARKUP))
    if not found:
        raise _UnreadableError("CONFIDENCE is no number")
    fraction = float(found[1]) / (100 if found[2] else 1)
    if not 0 <= fraction <= 1:
        raise _UnreadableError("CONFIDENCE is not from 0 to 1")
    return fraction
