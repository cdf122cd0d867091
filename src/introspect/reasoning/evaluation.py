"""Measuring a student: rollouts on questions, and the report of a model beside its baseline."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from introspect.progress import track
from introspect.reasoning.chat import ChatModel, ChatRequest, Sampling
from introspect.reasoning.examples import MultiHopExample
from introspect.reasoning.metrics.answer_hit import is_answer_inclusive_error
from introspect.reasoning.metrics.answers import exact_match
from introspect.reasoning.metrics.degeneration import is_degenerate, is_unparsed
from introspect.reasoning.metrics.summary import Comparison, compare, confidence_intervals, summarize
from introspect.reasoning.prompts import Style, check_style, question_messages
from introspect.reasoning.rollouts import Rollout, save_rollouts
from introspect.reasoning.store import ResponseStore, answer

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
        One rollout per question and sample, in the order of the questions.
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
    return [rollouts[request.id] for request in requests]


def report(
    baseline: Sequence[Rollout] | None,
    model: Sequence[Rollout],
    folder: str | Path,
    loggers: Iterable[Logger] = (),
    *,
    table_rows: int = 100,
) -> Comparison:
    """Score, show and save a run beside its baseline.

    Prints the table; writes `metrics.json` (`{"baseline": … or null, "model": …}`) and
    `rollouts/{baseline,model}.parquet` into `folder`; gives each W&B logger the rollouts as a table.

    Args:
        baseline: rollouts of the baseline on the same questions, or None to report the model alone.
        model: rollouts of the model.
        folder: where the files go; made if absent.
        loggers: of the run.
        table_rows: questions in the W&B table at most; 0 logs none.

    Returns:
        The comparison; without a baseline only its model side has numbers.

    Raises:
        InputError: a run is empty, or the runs answer different questions.
    """
    import rich

    folder = Path(folder)
    comparison = compare(baseline, model) if baseline is not None else _alone(model)
    save_rollouts(model, folder / "rollouts" / "model.parquet")
    if baseline is not None:
        save_rollouts(baseline, folder / "rollouts" / "baseline.parquet")
    content = comparison.to_json() if baseline is not None else {**comparison.to_json(), "baseline": None}
    (folder / "metrics.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    rich.print(comparison.table())
    log.info("metrics.json and rollouts/ are in %s", folder)
    if table_rows:
        columns, rows = rollout_table(baseline, model, table_rows)
        for logger in loggers:
            log_table(logger, "test/rollouts", columns, rows)
    return comparison


def flat(comparison: Comparison) -> dict[str, float]:
    """The numbers of a comparison as they are logged: `accuracy`, … of the model, `baseline/accuracy`, … beside it."""
    return {**comparison.model, **{f"baseline/{name}": value for name, value in comparison.baseline.items()}}


def _alone(model: Sequence[Rollout]) -> Comparison:
    return Comparison(
        baseline={},
        model=summarize(model),
        difference={},
        baseline_ci95={},
        model_ci95=confidence_intervals(model),
        difference_ci95={},
    )


def verdict(rollout: Rollout) -> str:
    """`right`, or what went wrong: `endless`, `no answer`, `lost` (an answer-inclusive error) or `wrong`."""
    if exact_match(rollout.predicted_answer, rollout.references):
        return "right"
    if is_degenerate(rollout):
        return "endless"
    if is_unparsed(rollout):
        return "no answer"
    return "lost" if is_answer_inclusive_error(rollout) else "wrong"


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
