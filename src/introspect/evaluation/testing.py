"""Measuring a student: rollouts on questions, and the report of a model beside its baseline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import Style, check_style, question_messages
from introspect.chat.protocol import ChatModel, ChatRequest, Sampling
from introspect.chat.store import ResponseStore, answer
from introspect.core.files import write_json
from introspect.core.progress import track
from introspect.core.run_logger import log_histograms
from introspect.evaluation.judging.running import Verdicts, save_judgments
from introspect.evaluation.metrics.summary import Comparison, compare_runs, confidence_intervals, summarize
from introspect.evaluation.metrics.table import comparison_table
from introspect.evaluation.outcomes import verdict
from introspect.evaluation.rollouts import Rollout, save_rollouts

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Testing:
    """How a student is tested.

    sampling: how answers are drawn. samples: answers per question. store: the file that keeps responses, None keeps
    none. baseline: a factory of the chat model that the student is compared with, usually the student before it was
    tuned; None compares with nothing. prompt: how the student is asked (`prompts.question_messages`); the baseline is
    asked plainly. options: of the student's own `TransformersChat`, such as `batch_size`.
    """

    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 1
    store: str | Path | None = None
    baseline: Callable[[], ChatModel] | None = None
    prompt: Style = "plain"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_style(self.prompt, "model.testing.prompt")

    def rollouts(
        self, model: ChatModel, examples: Sequence[MultiHopExample], description: str, *, prompt: Style = "plain"
    ) -> list[Rollout]:
        """What a model answers to the questions."""
        options: dict[str, Any] = {"samples": self.samples, "sampling": self.sampling, "prompt": prompt}
        with ResponseStore(self.store) if self.store else nullcontext() as store:
            return rollout(model, examples, store=store, description=description, **options)

    def baseline_rollouts(self, examples: Sequence[MultiHopExample]) -> list[Rollout] | None:
        """What the baseline answers, which is then let go; None without a baseline."""
        if self.baseline is None:
            return None
        model = self.baseline()
        try:
            return self.rollouts(model, examples, "baseline answers")
        finally:
            model.close()


def rollout(
    model: ChatModel,
    examples: Sequence[MultiHopExample],
    *,
    samples: int = 1,
    sampling: Sampling | None = None,
    prompt: Style = "plain",
    store: ResponseStore | None = None,
    description: str = "rollouts",
) -> list[Rollout]:
    """Ask the model every question `samples` times.

    Args:
        model: who answers.
        examples: the questions.
        samples: answers per question, drawn independently.
        sampling: how they are drawn; None is the paper's way.
        prompt: how the question is put; see `prompts.question_messages`.
        store: what it already holds is not generated again.
        description: of the progress bar.

    Returns:
        One rollout per question and sample, in the order of the questions; none for a request that failed.
    """
    by_request = {f"{example.id}/{sample}": example for example in examples for sample in range(samples)}
    requests = [
        ChatRequest(
            f"{example.id}/{sample}", question_messages(example, prompt), sampling or Sampling(), sample, example
        )
        for example in examples
        for sample in range(samples)
    ]
    answered = track(answer(model, requests, store), description=description, total=len(requests))
    rollouts = {request.id: Rollout.of(by_request[request.id], request, reply) for request, reply in answered}
    return [rollouts[request.id] for request in requests if request.id in rollouts]


class Failures(NamedTuple):
    """How many requests of a run and of its baseline were never answered."""

    baseline: int = 0
    model: int = 0

    def plus(self, asked: int, baseline: Sequence[Rollout] | None, model: Sequence[Rollout]) -> Failures:
        """With those of `asked` more requests to each side, which gave these rollouts; no baseline has no failures."""
        lost = 0 if baseline is None else asked - len(baseline)
        return Failures(self.baseline + lost, self.model + asked - len(model))


def report(
    baseline: Sequence[Rollout] | None,
    model: Sequence[Rollout],
    folder: str | Path,
    loggers: Iterable[Logger] = (),
    *,
    verdicts: Verdicts | None = None,
    failures: Failures = Failures(),  # noqa: B008 - it is immutable
    table_rows: int = 100,
) -> Comparison:
    """Score, show and save a run beside its baseline.

    Prints the table; writes `metrics.json` (`{"baseline": … or null, "model": …, "judge": … or null}`),
    `rollouts/{baseline,model}.parquet` and, where they were judged, `judgments/{baseline,model}.parquet` into `folder`;
    gives each W&B logger the rollouts as a table. Where requests failed, the runs are compared on the questions that
    both have answered, and the reports say how many failed.

    Args:
        baseline: rollouts of the baseline on the same questions, or None to report the model alone.
        model: rollouts of the model.
        folder: where the files go; made if absent.
        loggers: of the run.
        verdicts: what a judge said about the same rollouts.
        failures: requests without an answer, for which there is no rollout.
        table_rows: questions in the W&B table at most; 0 logs none.

    Returns:
        The comparison; without a baseline only its model side has numbers.

    Raises:
        InputError: a run is empty, or the runs answer different questions.
    """
    import rich

    folder, loggers = Path(folder), list(loggers)
    save_runs(folder, baseline, model, failures)
    if verdicts is not None:
        _save_judgments(folder, verdicts)
    if any(failures) and baseline is not None:
        baseline, model, verdicts = _answered_by_both(baseline, model, verdicts)
    comparison = _compared(baseline, model, verdicts, failures)
    content: dict[str, Any] = {**comparison.to_json(), "judge": None if verdicts is None else verdicts.to_json()}
    if baseline is None:
        content["baseline"] = None
    write_json(folder / "metrics.json", content)
    table = comparison_table(comparison)
    if verdicts is not None:
        table.caption = f"{table.caption}; judge: {verdicts.judge.get('model', 'of no name')}"
    rich.print(table)
    log.info("metrics.json and rollouts/ are in %s", folder)
    if table_rows:
        columns, rows = rollout_table(baseline, model, table_rows)
        for logger in loggers:
            log_table(logger, "test/rollouts", columns, rows)
        sides = {"model": model, "baseline": baseline or ()}
        tokens = {name: [rollout.completion_tokens for rollout in side] for name, side in sides.items()}
        log_histograms(loggers, {f"test/histogram/{name}/completion_tokens": each for name, each in tokens.items()})
    return comparison


def save_runs(
    folder: str | Path, baseline: Sequence[Rollout] | None, model: Sequence[Rollout], failures: Failures
) -> None:
    """Write `rollouts/{baseline,model}.parquet`; before a judge is asked, so that its failure costs no rollout.

    Raises:
        InputError: a run is empty.
    """
    save_rollouts(model, Path(folder) / "rollouts" / "model.parquet", failures.model)
    if baseline is not None:
        save_rollouts(baseline, Path(folder) / "rollouts" / "baseline.parquet", failures.baseline)


def _save_judgments(folder: Path, verdicts: Verdicts) -> None:
    save_judgments(verdicts.model, folder / "judgments" / "model.parquet")
    if verdicts.baseline is not None:
        save_judgments(verdicts.baseline, folder / "judgments" / "baseline.parquet")


def _answered_by_both(
    baseline: Sequence[Rollout], model: Sequence[Rollout], verdicts: Verdicts | None
) -> tuple[list[Rollout], list[Rollout], Verdicts | None]:
    """What can be compared where requests failed: the questions that both sides have an answer to."""
    asked = {rollout.example_id for rollout in (*baseline, *model)}
    both = {rollout.example_id for rollout in baseline} & {rollout.example_id for rollout in model}
    if len(both) < len(asked):
        log.warning(
            "%d of %d questions are left out of the comparison: one side has no answer to them, as requests failed",
            len(asked) - len(both),
            len(asked),
        )
    before, after = ([rollout for rollout in side if rollout.example_id in both] for side in (baseline, model))
    return before, after, None if verdicts is None else verdicts.about(both)


def _compared(
    baseline: Sequence[Rollout] | None, model: Sequence[Rollout], verdicts: Verdicts | None, failures: Failures
) -> Comparison:
    judged_before, judged_after = (None, None) if verdicts is None else verdicts.runs()
    if baseline is None:
        comparison = Comparison(
            baseline={},
            model=summarize(model, judged_after),
            difference={},
            baseline_ci95={},
            model_ci95=confidence_intervals(model, judged_after),
            difference_ci95={},
        )
        return replace(comparison, model={**comparison.model, "failed": failures.model})
    judged = (judged_before, judged_after) if judged_before and judged_after else None
    comparison = compare_runs(baseline, model, judged=judged)
    return replace(
        comparison,
        baseline={**comparison.baseline, "failed": failures.baseline},
        model={**comparison.model, "failed": failures.model},
    )


def flat(comparison: Comparison) -> dict[str, float]:
    """The numbers of a comparison as they are logged: `accuracy`, … of the model, `baseline/accuracy`, … beside it."""
    return {**comparison.model, **{f"baseline/{name}": value for name, value in comparison.baseline.items()}}


def rollout_table(
    baseline: Sequence[Rollout] | None, model: Sequence[Rollout], limit: int
) -> tuple[list[str], list[list[str | int]]]:
    """Columns and rows that show what the same questions were answered before and after, `limit` rows at most."""
    before = {(r.example_id, r.rollout_id): r for r in baseline or ()}
    columns = ["id", "hops", "question", "gold"]
    details = ["answer", "verdict", "tokens", "trace"]
    sides = ["before", "after"] if before else ["after"]
    rows: list[list[str | int]] = []
    for after in model[:limit]:
        row: list[str | int] = [after.example_id, after.hops, after.question, after.answer]
        pair = [before.get((after.example_id, after.rollout_id)), after] if before else [after]
        for side in pair:
            row += _details(side)
        rows.append(row)
    return [*columns, *(f"{detail} {side}" for side in sides for detail in details)], rows


def _details(rollout: Rollout | None) -> list[str | int]:
    if rollout is None:  # the baseline was sampled less often
        return ["", "", 0, ""]
    return [rollout.predicted_answer, verdict(rollout), rollout.completion_tokens, rollout.reasoning]


def log_table(logger: Logger, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
    """Log a table to the loggers that know tables, which is W&B's."""
    from lightning.pytorch.loggers import WandbLogger

    if isinstance(logger, WandbLogger):
        logger.log_table(name, columns=list(columns), data=[list(row) for row in rows])
