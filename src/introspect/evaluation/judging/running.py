"""Judging: a second stage over rollouts, right after they are made or alone on saved ones."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.protocol import ChatFailure, ChatModel, ChatRequest, ChatResponse, Sampling
from introspect.chat.store import ResponseStore, answer
from introspect.core.errors import InputError
from introspect.core.parquet import Table
from introspect.core.progress import track
from introspect.evaluation.judging.judges import JUDGES, Judge, chosen_judges
from introspect.evaluation.judgments import Failed, Judged, Judgment, Unparsed
from introspect.evaluation.metrics.judged import JudgedRun
from introspect.evaluation.rollouts import Rollout
from introspect.oracle.paragraphs import sentence_counts

log = logging.getLogger(__name__)

# Gives the items that rollouts are about; called only if the judge reads them.
Examples = Callable[[], Iterable[MultiHopExample]]


class Base(NamedTuple):
    """The lengths of the untuned model's answers: the units of MQI (tokens) and the length-aware RRP (sentences).

    None where they are not known; the scores that need them are then left out.
    """

    tokens: float | None
    sentences: float | None


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a judge said about a run and its baseline.

    judge: identity of the judge's model. scores: names of the judges. base: the untuned model's lengths.
    """

    judge: Mapping[str, str]
    scores: tuple[str, ...]
    base: Base
    baseline: Sequence[Judged] | None
    model: Sequence[Judged]

    def runs(self) -> tuple[JudgedRun | None, JudgedRun]:
        """Both runs as the metrics take them."""
        before, after = (
            None if side is None else JudgedRun(side, self.scores, *self.base) for side in (self.baseline, self.model)
        )
        assert after is not None
        return before, after

    def about(self, questions: Container[str]) -> Verdicts:
        """The part of it that is about questions of these ids; the base lengths stay."""
        before, after = (
            None if side is None else [judged for judged in side if judged.example_id in questions]
            for side in (self.baseline, self.model)
        )
        return replace(self, baseline=before, model=after or [])

    def to_json(self) -> dict[str, Any]:
        """Who judged, by what units, and what could not be read and why: `judge` of `metrics.json`."""
        sides = {"model": self.model} | ({} if self.baseline is None else {"baseline": self.baseline})
        return {
            "identity": dict(self.judge),
            "scores": list(self.scores),
            "base_tokens": self.base.tokens,
            "base_sentences": self.base.sentences,
            "unparsed": {side: _reasons(judged) for side, judged in sides.items()},
        }


def _reasons(judged: Iterable[Judged]) -> dict[str, int]:
    """`rrp: no CONFIDENCE` -> how often."""
    unparsed = (
        f"{name}: {judgment.reason}"
        for item in judged
        for name, judgment in item.judgments.items()
        if isinstance(judgment, Unparsed)
    )
    return dict(Counter(unparsed).most_common())


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How rollouts are judged.

    judge: who judges; None judges nothing. scores: which judges of `JUDGES` are asked. sampling: how replies are drawn.
    attempts: how often at most, where a reply can not be read; each is a draw of its own. store: the file that keeps
    replies; None keeps none. base_tokens, base_sentences: the units of `Base`; None takes them from the baseline.
    """

    judge: ChatModel | None = None
    scores: Sequence[str] = tuple(JUDGES)
    sampling: Sampling = field(default_factory=Sampling)
    attempts: int = 2
    store: str | Path | None = None
    base_tokens: float | None = None
    base_sentences: float | None = None

    def __post_init__(self) -> None:
        chosen_judges(self.scores)
        if self.attempts < 1:
            raise InputError(f"judging.attempts={self.attempts}: expected 1 or more")
        for name in ("base_tokens", "base_sentences"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise InputError(f"judging.{name}={value}: expected more than 0, or null")

    def judged(self, rollouts: Sequence[Rollout], examples: Examples, description: str = "judge") -> list[Judged]:
        """What the judge says about rollouts, in their order; nothing about any if there is no judge.

        Args:
            rollouts: each is asked about by itself, so parts of a run can be judged apart.
            examples: gives the benchmark's items, for a judge that reads them.
            description: of the progress bar.

        Raises:
            InputError: the judge reads items, and one is not there or asks something else; or too many requests failed.
        """
        if self.judge is None:
            return [Judged(rollout, {}) for rollout in rollouts]
        known = examples_of(rollouts, examples) if self.judge.reads_examples else {}
        with ResponseStore(self.store) if self.store else nullcontext() as store:
            asking = _Asking(self, self.judge, rollouts, known, store)
            return asking.judge(description)

    def judge_runs(
        self, baseline: Sequence[Rollout] | None, model: Sequence[Rollout], examples: Examples
    ) -> Verdicts | None:
        """`judged` and `verdicts` of a run and its baseline."""
        if self.judge is None:
            return None
        before = None if baseline is None else self.judged(baseline, examples, "judge reads the baseline")
        return self.verdicts(before, self.judged(model, examples, "judge reads the student"))

    def verdicts(self, baseline: Sequence[Judged] | None, model: Sequence[Judged]) -> Verdicts | None:
        """Put the judged runs together, and say what is to be said about them; None if there is no judge."""
        if self.judge is None:
            return None
        scores = tuple(judge.name for judge in chosen_judges(self.scores))
        verdicts = Verdicts(dict(self.judge.identity), scores, self._base(baseline), baseline, model)
        _speak(verdicts)
        return verdicts

    def spent(self) -> dict[str, float]:
        """What the judge's answers have cost; see `ChatModel.spent`."""
        return {} if self.judge is None else self.judge.spent()

    def close(self) -> None:
        """Let go of what the judge holds, such as a server. Asked again, it is started again."""
        if self.judge is not None:
            self.judge.close()

    def _base(self, baseline: Sequence[Judged] | None) -> Base:
        measured = base_lengths([judged.rollout for judged in baseline or ()])
        return Base(self.base_tokens or measured.tokens, self.base_sentences or measured.sentences)


def nobody() -> None:
    """No judge: what `judge=none` builds."""


def base_lengths(rollouts: Sequence[Rollout]) -> Base:
    """Mean completion tokens, and mean sentences of the reasoning, of a run; None where there is nothing to count."""
    tokens = sum(rollout.completion_tokens for rollout in rollouts)
    sentences = sum(sum(sentence_counts(rollout.reasoning)) for rollout in rollouts)
    return Base(tokens / len(rollouts) if tokens else None, sentences / len(rollouts) if sentences else None)


def examples_of(rollouts: Sequence[Rollout], examples: Examples) -> dict[str, MultiHopExample]:
    """The items that rollouts are about, by id.

    Raises:
        InputError: one is not there, or asks something else.
    """
    found = {example.id: example for example in examples()}
    remedy = "give the data=… (hopworld: also seed=…) and split that the rollouts were made with, or judge=none"
    missing = sorted({rollout.example_id for rollout in rollouts} - found.keys())
    if missing:
        benchmark = next(rollout.benchmark for rollout in rollouts if rollout.example_id == missing[0])
        raise InputError(
            f"the judge reads the benchmark's items, and {len(missing)} that the rollouts are about are not among the"
            f" {len(found)} loaded ones, for example {missing[0]!r} of {benchmark}: {remedy}"
        )
    for rollout in rollouts:
        example = found[rollout.example_id]
        if (example.question, example.answer) != (rollout.question, rollout.answer):
            raise InputError(f"item {example.id!r} of {example.benchmark} is not what the rollouts answer: {remedy}")
    return found


class _Patient(ChatModel):
    """The judge's model where a few requests are asked again: too many failures would be one of them."""

    max_failure_rate = 1.0

    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self.concurrency, self.usage = model.concurrency, model.usage

    @property
    def identity(self) -> Mapping[str, str]:
        return self._model.identity

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse | ChatFailure]:
        return self._model.generate(requests)


class _Asking:
    """One run of judgments: the rollouts by their place, and what is known about each."""

    def __init__(
        self,
        judging: Judging,
        model: ChatModel,
        rollouts: Sequence[Rollout],
        examples: Mapping[str, MultiHopExample],
        store: ResponseStore | None,
    ) -> None:
        self.judging, self.model, self.store = judging, model, store
        self.rollouts, self.examples = rollouts, examples
        self.judgments: list[dict[str, Judgment]] = [{} for _ in rollouts]

    def judge(self, description: str) -> list[Judged]:
        """Ask, ask again what could not be read, and join."""
        wanted: list[tuple[int, Judge]] = []
        for place, rollout in enumerate(self.rollouts):
            for judge in chosen_judges(self.judging.scores):
                if not judge.applies(rollout):
                    continue
                if not judge.settled(rollout):
                    wanted.append((place, judge))
                elif judge.empty is not None:
                    self.judgments[place][judge.name] = judge.empty
        for attempt in range(self.judging.attempts):
            if wanted:
                self._ask(wanted, attempt, description if attempt == 0 else f"{description}, again")
            wanted = [(p, judge) for p, judge in wanted if isinstance(self.judgments[p][judge.name], Unparsed)]
        return [
            Judged(rollout, {name: judgments[name] for name in JUDGES if name in judgments})
            for rollout, judgments in zip(self.rollouts, self.judgments, strict=True)
        ]

    def _ask(self, wanted: Sequence[tuple[int, Judge]], attempt: int, description: str) -> None:
        places: dict[str, tuple[int, Judge]] = {}

        def requests() -> Iterator[ChatRequest]:
            for place, judge in wanted:
                rollout = self.rollouts[place]
                example = self.examples.get(rollout.example_id)
                request = judge.request(rollout, self.judging.sampling, attempt, example)
                places[request.id] = place, judge
                yield request

        for place, judge in wanted:
            self.judgments[place].setdefault(judge.name, Failed())
        model = self.model if attempt == 0 else _Patient(self.model)
        answered = answer(model, requests(), self.store)
        for request, response in track(answered, description=description, total=len(wanted)):
            place, judge = places.pop(request.id)
            self.judgments[place][judge.name] = judge.read(self.rollouts[place], response)


def _speak(verdicts: Verdicts) -> None:
    """Warn of what makes the scores less than they seem."""
    sides = {"the model": verdicts.model, "the baseline": verdicts.baseline or ()}
    for side, judged in sides.items():
        if reasons := _reasons(judged):
            counts = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
            log.warning("replies about %s that the judge gave in no readable form, left out: %s", side, counts)
        failed = sum(isinstance(judgment, Failed) for item in judged for judgment in item.judgments.values())
        if failed:
            log.warning("%d requests about %s were not answered by the judge, and are left out", failed, side)
        empty = sum(not item.rollout.reasoning.strip() for item in judged)
        if 2 * empty > len(judged):
            log.warning("%d of %d rollouts of %s have no reasoning to be judged", empty, len(judged), side)
    if verdicts.base.tokens is None or verdicts.base.sentences is None:
        log.warning(
            "without a baseline MQI and the length-aware RRP have no unit and are left out: give baseline=…, or"
            " judging.base_tokens and judging.base_sentences"
        )


@dataclass(frozen=True, slots=True)
class SavedJudgment:
    """A judgment as a row of a file.

    Attributes:
        example_id: of the question.
        rollout_id: of the rollout.
        judge: name of the judge.
        outcome: `parsed`, `unparsed` or `failed`.
        judgment: a JSON object: the fields of the result, or the reason.
    """

    example_id: str
    rollout_id: int
    judge: str
    outcome: str
    judgment: str


JUDGMENTS = Table(SavedJudgment, "judgments", key=("example_id", "rollout_id", "judge"))


def save_judgments(judged: Sequence[Judged], path: str | Path) -> None:
    """Write judgments as Parquet, a `SavedJudgment` each; a crash never leaves half a file."""
    outcomes = {Unparsed: "unparsed", Failed: "failed"}
    rows = [
        SavedJudgment(
            item.example_id, item.rollout_id, name, outcomes.get(type(judgment), "parsed"), json.dumps(asdict(judgment))
        )
        for item in judged
        for name, judgment in item.judgments.items()
    ]
    JUDGMENTS.write(path, rows)
