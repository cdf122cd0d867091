"""Read a trace against the annotated solution: which sentences bring it forward, check it, or lead nowhere.

The rules follow the definitions in the judges' prompts. A sentence is of a class (`PROGRESS`, `VERIFICATION`,
`REDUNDANT`) if one of the rules below knows it. Others ("Let me look again.", "Yes.") serve the sentences around them
and share their class; a paragraph of nothing else leads nowhere.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import Literal

from introspect.benchmarks.answers import normalize_answer
from introspect.benchmarks.examples import MultiHopExample
from introspect.oracle.paragraphs import paragraphs
from introspect.oracle.phases import PLAN, REPLIES, SELECTION, SENTENCE_END, SOUNDNESS, VERIFYING
from introspect.oracle.solution import DENIALS, FILLER, contains, names, other_sentences, solution_steps

Class = Literal["progress", "verification", "redundant"]

_DISMISSAL = re.compile(r"\b(does not|doesn't|did not|didn't) help\b|\birrelevant\b|\bnot relevant\b", re.IGNORECASE)
_UNFOUNDED = re.compile(
    r"\b(maybe it is|maybe i should|maybe we should|am not sure|are not sure|can ?not find)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class TraceReading:
    """What a trace does. Paragraphs are counted from 1, and 0 is none.

    Attributes:
        steps: how many annotated steps it makes.
        first_correct: the paragraph that derives the answer.
        hit: whether the answer is found at all, even without all steps.
        redundant: paragraphs more than half of whose sentences are redundant.
        last_needed: the last paragraph before overthinking.
        last_useful: the last paragraph that makes progress.
        phases: those of the five phases that it passes through.
        level: the level of metacognition that follows from them, 0 to 5.
        placed: the fraction of the sentences in paragraphs with a sentence that a rule knows.
    """

    steps: int
    first_correct: int
    hit: bool
    redundant: tuple[int, ...]
    last_needed: int
    last_useful: int
    phases: tuple[int, ...]
    level: int
    placed: float


def read_trace(trace: str, example: MultiHopExample) -> TraceReading:
    """Read a trace about an item that has annotated evidence."""
    reader = _Reader(example)
    for paragraph in paragraphs(trace):
        reader.read(paragraph)
    return reader.reading()


@dataclass(frozen=True, slots=True)
class _Paragraph:
    """The paragraph that is being read.

    Attributes:
        number: counted from 1.
        texts: its sentences.
        plain: its sentences in normalised words.
        stated: the steps that each sentence states.
        dismissed: the trace sets it aside as useless.
        again: it goes through all steps once more.
    """

    number: int
    texts: tuple[str, ...]
    plain: tuple[str, ...]
    stated: tuple[frozenset[int], ...]
    dismissed: bool
    again: bool


@dataclass(slots=True)
class _Seen:
    """What the trace has done so far. Numbers are of paragraphs, 0 for not yet."""

    made: dict[int, int] = field(default_factory=dict)  # step -> paragraph
    wordings: dict[int, set[str]] = field(default_factory=dict)  # step -> sentences of that paragraph that make it
    latest: int | None = None  # the step made last
    monitored: set[int] = field(default_factory=set)  # steps that were followed by a question about them
    rechecked: set[int] = field(default_factory=set)
    alternatives: set[str] = field(default_factory=set)
    titles: set[str] = field(default_factory=set)  # of documents that were selected
    asked: bool = False
    planned: bool = False
    planned_first: bool = False
    corrected: bool = False
    verified: bool = False
    gone_through: bool = False
    derived: int = 0
    concluded: int = 0


class _Reader:
    """Reads paragraph by paragraph. The rules are tried in their order; the first that knows a sentence decides."""

    def __init__(self, example: MultiHopExample) -> None:
        self.steps = solution_steps(example)
        references = [normalize_answer(reference) for reference in example.references]
        self.references = [reference for reference in references if reference]
        self.question = frozenset(normalize_answer(example.question).split()) - FILLER
        strays = other_sentences(example, self.steps)
        # Traces repeat themselves: each sentence is compared with the documents once.
        self._states = cache(lambda said: frozenset(k for k, step in enumerate(self.steps) if step.is_made(said)))
        self._strays = cache(lambda said: any(contains(said, stray) for stray in strays))
        self.titles = {normalize_answer(document.title) for document in example.documents} - {""}
        self.chain = ({step.finding for step in self.steps} | {step.title for step in self.steps}) - {""}
        self.entities = self.titles | self.chain | names(example)
        told = [f"{step.statement} {step.finding}" for step in self.steps]
        named = [reference for reference in self.references if reference not in ("yes", "no")]
        # Steps that state the answer. Without any (a comparison), it is derived when it is also concluded.
        self.telling = {k for k, text in enumerate(told) if any(contains(text, reference) for reference in named)}
        self.seen = _Seen()
        self.classes: list[list[Class | None]] = []
        self.rules: tuple[Callable[[_Paragraph, int], Class | None], ...] = (
            *(self._step, self._aside, self._unfounded, self._verification, self._conclusion),
            *(self._plan, self._question, self._alternative, self._selection),
        )

    def read(self, text: str) -> None:
        """Read the next paragraph."""
        here = self._paragraph(text)
        classes: list[Class | None] = []
        for index, sentence in enumerate(here.texts):
            found = (rule(here, index) for rule in self.rules)
            classes.append(next((kind for kind in found if kind), None))
            if sentence.endswith("?") and SOUNDNESS.search(sentence) and self.seen.latest is not None:
                self.seen.monitored.add(self.seen.latest)
        self.classes.append(classes)
        seen = self.seen
        seen.gone_through = seen.gone_through or here.again
        if not seen.derived and self._all_made() and (self.telling or seen.concluded):
            seen.derived = here.number

    def _paragraph(self, text: str) -> _Paragraph:
        texts = tuple(SENTENCE_END.split(text.strip()))
        plain = tuple(map(normalize_answer, texts))
        quoted = self._quoted(plain)
        stated = tuple(
            frozenset[int]() if sentence.endswith("?") else self._states(said) | quoted[index]
            for index, (sentence, said) in enumerate(zip(texts, plain, strict=True))
        )
        everything = len(self.steps) > 1 and len(frozenset[int]().union(*stated)) == len(self.steps)
        return _Paragraph(
            number=len(self.classes) + 1,
            texts=texts,
            plain=plain,
            stated=stated,
            dismissed=bool(_DISMISSAL.search(text)),
            again=everything and bool(self.seen.derived),
        )

    def _quoted(self, plain: Sequence[str]) -> list[frozenset[int]]:
        """The steps whose statements end in each sentence: real ones may run over several."""
        ends = list(accumulate(len(said) + 1 if said else 0 for said in plain))
        text = " ".join(filter(None, plain))
        found: list[set[int]] = [set() for _ in plain]
        for number, step in enumerate(self.steps):
            start = text.find(step.statement)
            while start >= 0 and step.statement:
                index = bisect_left(ends, start + len(step.statement))
                if not DENIALS & (set(plain[index].split()) - set(step.statement.split())):
                    found[index].add(number)
                start = text.find(step.statement, start + len(step.statement))
        return [frozenset(numbers) for numbers in found]

    def _all_made(self) -> bool:
        return len(self.seen.made) == len(self.steps)

    def _step(self, here: _Paragraph, index: int) -> Class | None:
        """A step is progress when it is made, a check when it is first looked up again, then repetition."""
        seen, stated, said = self.seen, here.stated[index], here.plain[index]
        if not stated:
            return None
        if here.dismissed:
            return "redundant"
        if new := stated - seen.made.keys():
            for step in new:
                seen.made[step], seen.wordings[step], seen.latest = here.number, {said}, step
            return "progress"
        if here.again:
            seen.rechecked |= stated
            seen.verified = True
            return "redundant" if seen.gone_through else "verification"
        # What a document says, and what follows from it: one step in two sentences.
        if all(
            seen.made[k] == here.number and said not in seen.wordings[k] and len(seen.wordings[k]) < 2 for k in stated
        ):
            for step in stated:
                seen.wordings[step].add(said)
            return "progress"
        fresh = stated - seen.rechecked
        seen.rechecked |= stated
        return "verification" if fresh else "redundant"

    def _aside(self, here: _Paragraph, index: int) -> Class | None:
        """A fact that no step needs."""
        return "redundant" if self._strays(here.plain[index]) else None

    def _unfounded(self, here: _Paragraph, index: int) -> Class | None:
        """A doubt or a change of mind without grounds."""
        text = here.texts[index]
        return "redundant" if _UNFOUNDED.search(text) and not text.endswith("?") else None

    def _verification(self, here: _Paragraph, index: int) -> Class | None:
        """A check of the whole path, once; an assurance that names nothing is none, but is a phase."""
        text, seen = here.texts[index], self.seen
        if not VERIFYING.search(text) or text.endswith("?") or not self._all_made():
            return None
        if sum(contains(here.plain[index], entity) for entity in self.chain) < 2:
            seen.verified = seen.verified or "question" in text.lower()
            return None
        first, seen.verified = not seen.verified, True
        return "verification" if first else "redundant"

    def _conclusion(self, here: _Paragraph, index: int) -> Class | None:
        """The answer, stated on grounds: progress once. Another answer is none."""
        _, said, named = here.plain[index].partition("answer")
        if not said or here.texts[index].endswith("?"):
            return None
        if any(contains(named, reference) for reference in self.references) and self.seen.made:
            first, self.seen.concluded = not self.seen.concluded, self.seen.concluded or here.number
            return "progress" if first else None
        return "redundant" if any(contains(named, entity) for entity in self.entities) else None

    def _plan(self, here: _Paragraph, index: int) -> Class | None:
        if not PLAN.search(here.texts[index]):
            return None
        first, self.seen.planned = not self.seen.planned, True
        self.seen.planned_first = self.seen.planned_first or not self.seen.made
        return "progress" if first else "redundant"

    def _question(self, here: _Paragraph, index: int) -> Class | None:
        """What is asked."""
        words = set(here.plain[index].split())
        if not self.question or len(self.question & words) < 0.8 * len(self.question):
            return None
        first, self.seen.asked = not self.seen.asked, True
        return "progress" if first else "redundant"

    def _alternative(self, here: _Paragraph, index: int) -> Class | None:
        """A look back that is answered at once; a check if it names something for the first time."""
        seen, text = self.seen, here.texts[index]
        following = set(here.plain[index + 1].split()) if index + 1 < len(here.plain) else set()
        if not text.endswith("?") or not following & REPLIES or not seen.made:
            return None
        if SOUNDNESS.search(text) and any(here.stated):
            return None  # a step that is being monitored
        seen.corrected = True
        named = {entity for entity in self.entities if contains(here.plain[index], entity)}
        fresh = named - seen.alternatives
        seen.alternatives |= named
        return None if not named else "verification" if fresh else "redundant"

    def _selection(self, here: _Paragraph, index: int) -> Class | None:
        """Which documents matter."""
        named = {title for title in self.titles if contains(here.plain[index], title)}
        if not named or not SELECTION.search(here.texts[index]):
            return None
        fresh = named - self.seen.titles
        self.seen.titles |= named
        return "progress" if fresh else "redundant"

    def reading(self) -> TraceReading:
        """Sum up the whole trace."""
        seen, count = self.seen, len(self.classes)
        known = [any(classes) for classes in self.classes]
        filled = [_filled(classes) for classes in self.classes]
        redundant = tuple(n for n, c in enumerate(filled, start=1) if 2 * c.count("redundant") > len(c))
        useful = [n for n, c in enumerate(filled, start=1) if "progress" in c and n not in redundant]
        sizes = [len(classes) for classes in self.classes]
        phases = self._phases()
        return TraceReading(
            steps=len(seen.made),
            first_correct=seen.derived,
            hit=bool(seen.derived or seen.concluded or self.telling & seen.made.keys()),
            redundant=redundant,
            last_needed=self._last_needed(redundant) if seen.derived else count,
            last_useful=useful[-1] if useful else 0,
            phases=phases,
            level=_level(phases) if any(known) else 0,
            placed=sum(size for size, is_known in zip(sizes, known, strict=True) if is_known) / max(1, sum(sizes)),
        )

    def _last_needed(self, redundant: Sequence[int]) -> int:
        """The paragraph before the first redundant one after the answer was derived and confirmed."""
        seen = self.seen
        confirmed = [
            number
            for number, classes in enumerate(self.classes, start=1)
            if number >= seen.derived and ("verification" in classes or number == seen.concluded)
        ]
        end = confirmed[0] if confirmed else seen.derived
        return next((number for number in redundant if number > end), len(self.classes) + 1) - 1

    def _phases(self) -> tuple[int, ...]:
        seen = self.seen
        present = (
            seen.asked and bool(seen.titles),
            seen.planned_first,
            len(seen.monitored) > len(seen.made) / 2,
            seen.corrected,
            seen.verified,
        )
        return tuple(number for number, is_present in enumerate(present, start=1) if is_present)


def _level(phases: Sequence[int]) -> int:
    """The rubric of the MQI prompt, for a trace that reasons."""
    if len(phases) >= 4:
        return len(phases)
    if {2, 3} <= set(phases):
        return 3
    return 2 if {2, 5} & set(phases) else 1


def _filled(classes: Sequence[Class | None]) -> list[Class]:
    """Sentences that no rule knows get the class of the next one in the paragraph that has one, else of the last."""
    last: Class = next((kind for kind in reversed(classes) if kind), "redundant")
    filled: list[Class] = []
    for kind in reversed(classes):
        last = kind or last
        filled.append(last)
    return filled[::-1]
