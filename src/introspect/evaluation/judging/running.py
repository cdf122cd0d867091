"""Judging: a second stage over rollouts, right after they are generated or later on saved ones."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.protocol import ChatFailure, ChatModel, ChatRequest, ChatResponse, Sampling
from introspect.chat.store import ResponseStore, answer
from introspect.core.errors import InputError
from introspect.core.parquet import Table
from introspect.core.progress import track
from introspect.evaluation.judging.judges import JUDGES, Judge, chosen_judges
from introspect.evaluation.judging.judgments import Failed, Judged, Judgment, Unparsed
from introspect.evaluation.judging.metrics import BaseLengths, JudgedRun
from introspect.evaluation.outcomes import has_no_reasoning
from introspect.evaluation.rollouts import Rollout
from introspect.oracle.paragraphs import sentence_counts

log = logging.getLogger(__name__)

# Gives the items that rollouts are about; called only if the judge reads them.
Examples = Callable[[], Iterable[MultiHopExample]]


@dataclass(frozen=True, slots=True)
class JudgedRuns:
    """What a judge says about a run and its baseline.

    Attributes:
        judge: identity of the judge's model.
        baseline: the judged rollouts of the baseline; None without one.
        model: the judged rollouts of the model.
    """

    judge: Mapping[str, str]
    baseline: JudgedRun | None
    model: JudgedRun

    def about(self, questions: Container[str]) -> JudgedRuns:
        """Keep what is about questions of these ids; the base lengths stay."""
        return replace(
            self, baseline=self.baseline and self.baseline.about(questions), model=self.model.about(questions)
        )

    def to_json(self) -> dict[str, Any]:
        """Who judged, by what units, and what could not be read and why: `judge` of `metrics.json`."""
        sides = {"model": self.model} | ({} if self.baseline is None else {"baseline": self.baseline})
        return {
            "identity": dict(self.judge),
            "scores": list(self.model.scores),
            "base_tokens": self.model.base.tokens,
            "base_sentences": self.model.base.sentences,
            "unparsed": {side: _reasons(run.rollouts) for side, run in sides.items()},
        }

    def save(self, folder: Path) -> None:
        """Write `judgments/{model,baseline}.parquet` into a folder."""
        save_judgments(self.model.rollouts, folder / "judgments" / "model.parquet")
        if self.baseline is not None:
            save_judgments(self.baseline.rollouts, folder / "judgments" / "baseline.parquet")


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

    Attributes:
        judge: who judges; None judges nothing.
        scores: names of the judges in `JUDGES` that are asked.
        sampling: how replies are drawn.
        attempts: requests at most per judge and rollout, where a reply cannot be read; each is a draw of its own.
        store: the file that keeps replies; None keeps none.
        base_tokens: mean completion tokens of the base model's answers, the unit of MQI; None takes the baseline's.
        base_sentences: mean sentences of its reasoning, the unit of the length-aware RRP; None takes the baseline's.
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
        """Judge rollouts, each by itself, so that parts of a run can be judged apart.

        Args:
            rollouts: of a run or a part of it.
            examples: gives the benchmark's items, for a judge that reads them.
            description: of the progress bar.

        Returns:
            The rollouts in their order; without judgments if there is no judge.

        Raises:
            InputError: the judge reads items, and one is missing or asks something else; or too many requests failed.
        """
        if self.judge is None:
            return [Judged(rollout, {}) for rollout in rollouts]
        known = examples_of(rollouts, examples) if self.judge.reads_examples else {}
        with ResponseStore(self.store) if self.store else nullcontext() as store:
            return _Requests(self, self.judge, rollouts, known, store).judge(description)

    def judge_runs(
        self, baseline: Sequence[Rollout] | None, model: Sequence[Rollout], examples: Examples
    ) -> JudgedRuns | None:
        """Judge a run and its baseline; None if there is no judge."""
        if self.judge is None:
            return None
        before = None if baseline is None else self.judged(baseline, examples, "judge reads the baseline")
        return self.join(before, self.judged(model, examples, "judge reads the student"))

    def join(self, baseline: Sequence[Judged] | None, model: Sequence[Judged]) -> JudgedRuns | None:
        """Put the judged runs together, and warn of what is left out; None if there is no judge."""
        if self.judge is None:
            return None
        scores = tuple(judge.name for judge in chosen_judges(self.scores))
        measured = base_lengths([judged.rollout for judged in baseline or ()])
        base = BaseLengths(self.base_tokens or measured.tokens, self.base_sentences or measured.sentences)
        before = None if baseline is None else JudgedRun(baseline, scores, base)
        runs = JudgedRuns(dict(self.judge.identity), before, JudgedRun(model, scores, base))
        _warn(runs)
        return runs

    def spent(self) -> dict[str, float]:
        """What the judge's answers have cost; see `ChatModel.spent`."""
        return {} if self.judge is None else self.judge.spent()

    def close(self) -> None:
        """Release what the judge holds, such as a server; the next request starts it again."""
        if self.judge is not None:
            self.judge.close()


def nobody() -> None:
    """Return no judge: what `judge=none` builds."""


def base_lengths(rollouts: Sequence[Rollout]) -> BaseLengths:
    """Average the completion tokens and the sentences of the reasoning; None where there is nothing to count."""
    tokens = sum(rollout.completion_tokens for rollout in rollouts)
    sentences = sum(sum(sentence_counts(rollout.reasoning)) for rollout in rollouts)
    return BaseLengths(tokens / len(rollouts) if tokens else None, sentences / len(rollouts) if sentences else None)


def examples_of(rollouts: Sequence[Rollout], examples: Examples) -> dict[str, MultiHopExample]:
    """Find the items that rollouts are about, by id.

    Raises:
        InputError: one is missing, or asks something else.
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


class _Tolerant(ChatModel):
    """The judge's model for a second attempt at a few requests, of which one failure would be too many."""

    max_failure_rate = 1.0

    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self.concurrency, self.usage = model.concurrency, model.usage

    @property
    def identity(self) -> Mapping[str, str]:
        return self._model.identity

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse | ChatFailure]:
        return self._model.generate(requests)


class _Requests:
    """The requests about the rollouts of a run, and the judgments so far by the place of the rollout."""

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
        """Request every judgment, request again what could not be read, and join."""
        wanted: list[tuple[int, Judge]] = []
        for place, rollout in enumerate(self.rollouts):
            for judge in chosen_judges(self.judging.scores):
                if not judge.applies(rollout):
                    continue
                if not judge.is_empty(rollout):
                    wanted.append((place, judge))
                elif judge.empty is not None:
                    self.judgments[place][judge.name] = judge.empty
        for attempt in range(self.judging.attempts):
            if wanted:
                self._request(wanted, attempt, description if attempt == 0 else f"{description}, again")
            wanted = [(p, judge) for p, judge in wanted if isinstance(self.judgments[p][judge.name], Unparsed)]
        return [
            Judged(rollout, {name: judgments[name] for name in JUDGES if name in judgments})
            for rollout, judgments in zip(self.rollouts, self.judgments, strict=True)
        ]

    def _request(self, wanted: Sequence[tuple[int, Judge]], attempt: int, description: str) -> None:
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
        model = self.model if attempt == 0 else _Tolerant(self.model)
        answered = answer(model, requests(), self.store)
        for request, response in track(answered, description=description, total=len(wanted)):
            place, judge = places.pop(request.id)
            self.judgments[place][judge.name] = judge.read(self.rollouts[place], response)


def _warn(runs: JudgedRuns) -> None:
    """Warn of what the scores leave out."""
    sides = {"the model": runs.model.rollouts, "the baseline": runs.baseline.rollouts if runs.baseline else ()}
    for side, judged in sides.items():
        if reasons := _reasons(judged):
            counts = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
            log.warning("replies about %s that the judge gave in no readable form, left out: %s", side, counts)
        failed = sum(isinstance(judgment, Failed) for item in judged for judgment in item.judgments.values())
        if failed:
            log.warning("%d requests about %s were not answered by the judge, and are left out", failed, side)
        empty = sum(has_no_reasoning(item.rollout) for item in judged)
        if 2 * empty > len(judged):
            log.warning("%d of %d rollouts of %s have no reasoning to be judged", empty, len(judged), side)
    if None in runs.model.base:
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
