"""The report of an evaluation: a table in the terminal, files in the run's folder, tables and histograms in W&B."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from introspect.core.files import write_json
from introspect.core.run_logger import log_histograms
from introspect.evaluation.comparison import compare_runs
from introspect.evaluation.judging.running import JudgedRuns
from introspect.evaluation.outcomes import outcome
from introspect.evaluation.rollouts import Rollout
from introspect.evaluation.runs import Runs
from introspect.evaluation.table import comparison_table

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)


def write_report(
    runs: Runs,
    folder: str | Path,
    loggers: Iterable[Logger] = (),
    *,
    judged: JudgedRuns | None = None,
    table_rows: int = 100,
) -> dict[str, float]:
    """Score, show and save a model's run and its baseline's.

    Prints the table; writes `metrics.json` (`{"baseline": … or null, "model": …, "judge": … or null}`),
    `rollouts/{baseline,model}.parquet` and, where they were judged, `judgments/{baseline,model}.parquet` into `folder`;
    gives each W&B logger the rollouts as a table. Where requests failed, the runs are compared on the questions that
    both have answered, and the reports say how many failed.

    Args:
        runs: the rollouts of the model, and of its baseline on the same questions.
        folder: where the files go; made if absent.
        loggers: of the run.
        judged: the judgments of the same rollouts.
        table_rows: questions in the W&B table at most; 0 logs none.

    Returns:
        The numbers as they are logged: `accuracy`, … of the model and `baseline/accuracy`, … of the baseline.

    Raises:
        InputError: a run is empty, or the runs answer different questions.
    """
    import rich

    folder, loggers = Path(folder), list(loggers)
    runs.save(folder)
    if judged is not None:
        judged.save(folder)
    if runs.baseline is not None and (runs.model_failed or runs.baseline_failed):
        runs, judged = _answered_by_both(runs, runs.baseline, judged)
    comparison = compare_runs(runs, judged)
    content = {**comparison.to_json(), "judge": None if judged is None else judged.to_json()}
    write_json(folder / "metrics.json", content)
    table = comparison_table(comparison)
    if judged is not None:
        table.caption = f"{table.caption}; judge: {judged.judge.get('model', 'of no name')}"
    rich.print(table)
    log.info("metrics.json and rollouts/ are in %s", folder)
    if table_rows:
        columns, rows = rollout_table(runs.baseline, runs.model, table_rows)
        for logger in loggers:
            log_table(logger, "test/rollouts", columns, rows)
        sides = {"model": runs.model, "baseline": runs.baseline or ()}
        tokens = {name: [rollout.completion_tokens for rollout in side] for name, side in sides.items()}
        log_histograms(loggers, {f"test/histogram/{name}/completion_tokens": each for name, each in tokens.items()})
    numbers = {**comparison.model, **{f"baseline/{name}": value for name, value in comparison.baseline.items()}}
    return {name: float(value) for name, value in numbers.items()}


def _answered_by_both(
    runs: Runs, baseline: Sequence[Rollout], judged: JudgedRuns | None
) -> tuple[Runs, JudgedRuns | None]:
    """Keep the questions that both sides have an answer to."""
    before, after = ({rollout.example_id for rollout in side} for side in (baseline, runs.model))
    if left_out := len(before ^ after):
        log.warning(
            "%d of %d questions are left out of the comparison: one side has no answer to them, as requests failed",
            left_out,
            len(before | after),
        )
    both = before & after
    return runs.about(both), None if judged is None else judged.about(both)


def rollout_table(
    baseline: Sequence[Rollout] | None, model: Sequence[Rollout], limit: int
) -> tuple[list[str], list[list[str | int]]]:
    """Tabulate the answers to the same questions before and after, `limit` rows at most."""
    before = {(r.example_id, r.rollout_id): r for r in baseline or ()}
    columns = ["id", "hops", "question", "gold"]
    details = ["answer", "outcome", "tokens", "trace"]
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
    return [rollout.predicted_answer, outcome(rollout), rollout.completion_tokens, rollout.reasoning]


def log_table(logger: Logger, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
    """Log a table to the loggers that know tables, which is W&B's."""
    from lightning.pytorch.loggers import WandbLogger

    if isinstance(logger, WandbLogger):
        logger.log_table(name, columns=list(columns), data=[list(row) for row in rows])
