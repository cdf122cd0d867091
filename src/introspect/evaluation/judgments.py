"""What a judge said, and how it is read from its reply.

A reply is read tolerantly where its meaning is plain (bold type, bare markers, "90%", fields on one line) and strictly
where it is not: a field that is missing, contradictory or out of range makes the reply `Unparsed`. An unparsed reply is
no score: it is asked for once more, then counted and left out, never taken for 0 or for a default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from introspect.evaluation.rollouts import Rollout
from introspect.oracle.paragraphs import find_markers, without_markers

Grade = Literal["correct", "incorrect", "not_attempted"]

PHASES = ("understanding", "planning", "monitoring", "correction", "verification")
HIGHEST_LEVEL = 5


@dataclass(frozen=True, slots=True)
class Correctness:
    """Whether the final answer is right."""

    grade: Grade


@dataclass(frozen=True, slots=True)
class AnswerHit:
    """Whether the trace supports an accepted answer somewhere, be it given up later."""

    hit: bool


@dataclass(frozen=True, slots=True)
class Profile:
    """The Reach-Redundancy Profile of a trace, in paragraphs counted from 1.

    first_correct: the first one that derives the answer, 0 if none does. redundant: those that add nothing, ascending.
    confidence: the judge's own, in [0, 1].
    """

    first_correct: int
    redundant: tuple[int, ...]
    confidence: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Observed level of metacognition (0 to 5), the phases (1 to 5) that the trace passes through, and confidence."""

    level: int
    phases: tuple[int, ...]
    confidence: float


@dataclass(frozen=True, slots=True)
class Effective:
    """The last paragraph, counted from 1, before the trace stops being of use; 0 if it never was."""

    paragraph: int


@dataclass(frozen=True, slots=True)
class Metacognition:
    """Level of metacognition, 0 to 5, by the longer rubric of the paper's first version."""

    level: int


Result = Correctness | AnswerHit | Profile | Quality | Effective | Metacognition


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A reply that says nothing certain, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that the judge's model gave up on."""


Judgment = Result | Unparsed | Failed


@dataclass(frozen=True, slots=True)
class Judged:
    """A rollout, and what the judges say about it, by the judges' names; a judge that does not apply is not there."""

    rollout: Rollout
    judgments: Mapping[str, Judgment]

    @property
    def example_id(self) -> str:
        """The rollout's."""
        return self.rollout.example_id

    @property
    def rollout_id(self) -> int:
        """The rollout's."""
        return self.rollout.rollout_id

    @property
    def predicted_answer(self) -> str:
        """The rollout's."""
        return self.rollout.predicted_answer


class _Unreadable(Exception):
    """Carries the reason for an `Unparsed` out of the helpers below."""


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


def parse_correctness(reply: str, paragraphs: int = 0) -> Correctness | Unparsed:
    """`A`, `B` or `C` on the first line, with or without the word that it stands for, or that word alone."""
    found = _GRADE.fullmatch(_first_line(reply))
    letter, word = found.groups("") if found else ("", "")
    words = {_GRADES.get(letter.upper()), _grade(word)} - {None}
    if len(words) != 1:
        return Unparsed("no single grade" if reply.strip() else "empty")
    return Correctness(next(grade for grade in _GRADES.values() if grade in words))


def _grade(word: str) -> Grade | None:
    return next((grade for grade in _GRADES.values() if grade == word.lower().replace(" ", "_")), None)


def parse_answer_hit(reply: str, paragraphs: int = 0) -> AnswerHit | Unparsed:
    """`YES` or `NO` at the start of the first line; grounds that follow are not read."""
    line = _first_line(reply)
    found = _YES_NO.fullmatch(line)
    if found is None or {"YES", "NO"} <= set(re.findall(r"\w+", line)):
        return Unparsed("neither YES nor NO" if line else "empty")
    return AnswerHit(found[1].upper() == "YES")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


def parse_profile(reply: str, paragraphs: int) -> Profile | Unparsed:
    """The four lines of an RRP reply about a trace of so many paragraphs; the notes are for people."""
    try:
        fields = _fields(reply, ("ANSWER_PARAGRAPH_MARKER", "REDUNDANT_PARAGRAPH_MARKERS", "CONFIDENCE"))
        answer, redundant, confidence = fields
        return Profile(
            first_correct=_one_marker(answer, paragraphs, "ANSWER_PARAGRAPH_MARKER"),
            redundant=_markers(redundant, paragraphs, "REDUNDANT_PARAGRAPH_MARKERS"),
            confidence=_share(confidence),
        )
    except _Unreadable as error:
        return Unparsed(str(error))


def parse_quality(reply: str, paragraphs: int = 0) -> Quality | Unparsed:
    """The three lines of an MQI reply."""
    try:
        level, phases, confidence = _fields(reply, ("L_OBS", "PHASES", "CONFIDENCE"))
        return Quality(_level(level, "L_OBS"), _phases(phases), _share(confidence))
    except _Unreadable as error:
        return Unparsed(str(error))


def parse_overthinking(reply: str, paragraphs: int) -> Effective | Unparsed:
    """The marker of the last paragraph before overthinking."""
    return _parse_end(reply, paragraphs, "LAST_NEEDED_MARKER")


def parse_underthinking(reply: str, paragraphs: int) -> Effective | Unparsed:
    """The marker of the last paragraph before stagnation."""
    return _parse_end(reply, paragraphs, "LAST_USEFUL_MARKER")


def _parse_end(reply: str, paragraphs: int, name: str) -> Effective | Unparsed:
    try:
        (marker,) = _fields(reply, (name,))
        return Effective(_one_marker(marker, paragraphs, name))
    except _Unreadable as error:
        return Unparsed(str(error))


def parse_metacognition(reply: str, paragraphs: int = 0) -> Metacognition | Unparsed:
    """A level from 0 to 5."""
    try:
        (level,) = _fields(reply, ("SCORE",))
        return Metacognition(_level(level, "SCORE"))
    except _Unreadable as error:
        return Unparsed(str(error))


# Every field that a prompt asks for: a value ends where the next field begins, on the same line or another.
_FIELDS = (
    *("ANSWER_PARAGRAPH_MARKER", "REDUNDANT_PARAGRAPH_MARKERS", "LAST_NEEDED_MARKER", "LAST_USEFUL_MARKER"),
    *("L_OBS", "PHASES", "SCORE", "CONFIDENCE", "NOTES"),
)
_FIELD = re.compile(rf"(?<![A-Za-z_])({'|'.join(_FIELDS)})[ \t*_`\"']*[:=]", re.IGNORECASE)


def _fields(reply: str, names: Sequence[str]) -> list[str]:
    """The values of the named fields, which must each be there, not be empty, and not be given twice differently."""
    if not reply.strip():
        raise _Unreadable("empty")
    found = list(_FIELD.finditer(reply))
    values: dict[str, set[str]] = {}
    for match, following in zip(found, [*found[1:], None], strict=False):
        end = following.start() if following else len(reply)
        value = _REMARK.sub(" ", reply[match.end() : end]).strip(_MARKUP).rstrip(_MARKUP + ".;,")
        values.setdefault(match[1].upper(), set()).add(value)
    for name in names:
        if name not in values:
            raise _Unreadable(f"no {name}")
        if len(values[name]) > 1:
            raise _Unreadable(f"{name} given twice")
        if values[name] == {""}:
            raise _Unreadable(f"{name} is empty")
    return [values[name].pop() for name in names]


def _one_marker(value: str, paragraphs: int, name: str) -> int:
    if value.upper() in _NOTHING:
        return 0
    found = find_markers(value, paragraphs)
    if found is None:
        raise _Unreadable(f"{name} is not in the trace")
    if len(set(found)) != 1:
        raise _Unreadable(f"{name} is not one marker")
    return found[0]


def _markers(value: str, paragraphs: int, name: str) -> tuple[int, ...]:
    if value.upper() in _NOTHING:
        return ()
    found = find_markers(value, paragraphs)
    if found is None or 0 in found:
        raise _Unreadable(f"{name} is not in the trace")
    if not found or _BETWEEN_MARKERS.sub("", without_markers(value)):
        raise _Unreadable(f"{name} is no list of markers")
    return tuple(sorted(set(found)))


def _level(value: str, name: str) -> int:
    found = re.fullmatch(rf"[\[(]?(-?\d+)(?:\s*(?:/|out of)\s*{HIGHEST_LEVEL})?[\])]?", _first_line(value))
    if not found:
        raise _Unreadable(f"{name} is no whole number")
    if not 0 <= int(found[1]) <= HIGHEST_LEVEL:
        raise _Unreadable(f"{name} is not from 0 to {HIGHEST_LEVEL}")
    return int(found[1])


def _phases(value: str) -> tuple[int, ...]:
    if value.upper() in _NOTHING:
        return ()
    numbers = re.sub(r"\band\b|[\[\]]", " ", value).strip()
    if not re.fullmatch(r"\d+(?:[\s,;&]+\d+)*", numbers):
        raise _Unreadable("PHASES is no list of numbers")
    found = {int(number) for number in re.findall(r"\d+", numbers)}
    if not found <= set(range(1, len(PHASES) + 1)):
        raise _Unreadable(f"PHASES are not from 1 to {len(PHASES)}")
    return tuple(sorted(found))


def _share(value: str) -> float:
    found = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+))\s*(%?)", _first_line(value).strip(_MARKUP))
    if not found:
        raise _Unreadable("CONFIDENCE is no number")
    share = float(found[1]) / (100 if found[2] else 1)
    if not 0 <= share <= 1:
        raise _Unreadable("CONFIDENCE is not from 0 to 1")
    return share
