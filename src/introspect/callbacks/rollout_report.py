"""The numbers that say whether tuning helped: base beside tuned, after the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from introspect.callbacks.gathering import gather
from introspect.reasoning.evaluation import flat, report
from introspect.reasoning.rollouts import Rollout


class RolloutReport(Callback):
    """Compares the rollouts of a test with those of the baseline, and reports.

    Reads `module.test_rollouts` and `module.baseline_rollouts` (None without a baseline) when the last test batch is
    done; each rank has its own share. Prints the table, writes `metrics.json` and `rollouts/*.parquet`, gives W&B a
    table of rollouts before and after, and logs `test/accuracy`, … of the model and `test/baseline/accuracy`, … of the
    baseline: every number of `metrics.summary.summarize`, and `test/aes`.

    Args:
        folder: where the files go.
        table_rows: questions in the W&B table at most; 0 logs none.
    """

    def __init__(self, *, folder: str | Path, table_rows: int = 100) -> None:
        self.folder = Path(folder)
        self.table_rows = table_rows

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather from all ranks; the first one reports."""
        module = cast(Any, pl_module)
        model = _gather(module.test_rollouts)
        baseline = None if module.baseline_rollouts is None else _gather(module.baseline_rollouts)
        if not trainer.is_global_zero:
            return
        comparison = report(baseline, model, self.folder, trainer.loggers, table_rows=self.table_rows)
        for name, value in flat(comparison).items():
            pl_module.log(f"test/{name}", float(value), rank_zero_only=True)


def _gather(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Those of all ranks, each once: to give every rank as many batches, some questions are asked twice."""
    return list({(rollout.example_id, rollout.rollout_id): rollout for rollout in gather(rollouts)}.values())
