"""Compare base and tuned model after the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from introspect.callbacks.gathering import by_first, gather
from introspect.core.errors import InputError
from introspect.evaluation.judging.judgments import Judged
from introspect.evaluation.judging.running import Judging
from introspect.evaluation.report import write_report
from introspect.evaluation.rollouts import Rollout
from introspect.evaluation.runs import Runs
from introspect.evaluation.students import TestedStudent


class RolloutReport(Callback):
    """Lets a judge read the rollouts of a test and of the baseline, compares them, and reports.

    Reads `module.test_runs` of a `TestedStudent` when the last test batch is done; each rank has its own share, and
    judges it. Prints the table, writes `metrics.json`, `rollouts/*.parquet` and `judgments/*.parquet`, gives W&B a
    table of rollouts before and after, and logs `test/accuracy`, … of the model and `test/baseline/accuracy`, … of the
    baseline: every number of `comparison.summarize`, and `test/aes`.

    Args:
        folder: where the files go.
        judging: how the rollouts are judged; None leaves it out. A judge that reads the benchmark's items gets those of
            `datamodule.examples("test")`.
        table_rows: questions in the W&B table at most; 0 logs none.
    """

    def __init__(self, *, folder: str | Path, judging: Judging | None = None, table_rows: int = 100) -> None:
        self.folder = Path(folder)
        self.judging = judging or Judging()
        self.table_rows = table_rows

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse, before anything is trained, a judge whose server every process would start for itself.

        Raises:
            InputError: it is such a judge, and there are several processes.
        """
        judge = self.judging.judge
        if judge is not None and judge.starts_server and trainer.world_size > 1:
            raise InputError(
                f"judge: each of {trainer.world_size} processes would start a server: give judge.base_url=… of"
                " one that runs, or judge=none here, and judge what is saved with evaluate.py rollouts=… judge=…"
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather from all ranks and save, judge, report; the first one writes, and all log its numbers.

        Rollouts are saved before they are judged, so that `evaluate.py rollouts=…` can judge it again.
        """
        own = cast(TestedStudent, pl_module).test_runs
        runs = Runs.merge(gather([own]))
        if trainer.is_global_zero:
            runs.save(self.folder)
        try:
            model = self._judged(trainer, own.model, "judge reads the student")
            baseline = None
            if own.baseline is not None:
                baseline = self._judged(trainer, own.baseline, "judge reads the baseline")
        finally:
            self.judging.close()
        judged = self.judging.join(baseline, model)
        numbers = by_first(
            lambda: write_report(runs, self.folder, trainer.loggers, judged=judged, table_rows=self.table_rows)
        )
        for name, value in numbers.items():
            pl_module.log(f"test/{name}", value)
        for name, amount in total(gather([self.judging.spent()])).items():
            pl_module.log(f"test/judge/{name}", amount)

    def _judged(self, trainer: Trainer, rollouts: Sequence[Rollout], description: str) -> list[Judged]:
        """Return the judgments of the rollouts of all ranks, each once."""
        examples = partial(cast(Any, trainer).datamodule.examples, "test") if self.judging.judge else tuple
        judged = gather(self.judging.judged(rollouts, examples, description))
        return list({(item.example_id, item.rollout_id): item for item in judged}.values())


def total(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the sums over all ranks, by name."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0) for part in parts) for name in names}
