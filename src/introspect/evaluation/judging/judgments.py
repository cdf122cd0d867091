"""What a judge says about a rollout: one result type per judge, or why there is no result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from introspect.evaluation.rollouts import Rollout

Grade = Literal["correct", "incorrect", "not_attempted"]

PHASES = ("understanding", "planning", "monitoring", "correction", "verification")
HIGHEST_LEVEL = 5


@dataclass(frozen=True, slots=True)
class Correctness:
    """Whether the final answer is right."""

    grade: Grade


@dataclass(frozen=True, slots=True)
class AnswerHit:
    """Whether the trace supports an accepted answer somewhere, even if it abandons the answer later."""

    hit: bool


@dataclass(frozen=True, slots=True)
class Profile:
    """The Reach-Redundancy Profile (RRP) of a trace, in paragraphs counted from 1.

    Attributes:
        first_correct: the first paragraph that derives the answer, 0 if none does.
        redundant: the paragraphs that add nothing, ascending.
        confidence: the judge's own, in [0, 1].
    """

    first_correct: int
    redundant: tuple[int, ...]
    confidence: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Metacognitive quality of a trace.

    Attributes:
        level: observed level of metacognition, 0 to 5.
        phases: those of the five phases (1 to 5) that the trace passes through, ascending.
        confidence: the judge's own, in [0, 1].
    """

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
    """A reply that cannot be read, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that the judge's model gave up on."""


Judgment = Result | Unparsed | Failed


@dataclass(frozen=True, slots=True)
class Judged:
    """A rollout with its judgments.

    Attributes:
        rollout: the rollout.
        judgments: by the judge's name; a judge that does not apply has no entry.
    """

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
