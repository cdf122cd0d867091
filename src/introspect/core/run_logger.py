"""Lightning's W&B logger with the axes and summaries of our metrics, and offline where the server fails."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from introspect.core.errors import one_line
from introspect.core.nested import flatten

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from wandb import Run

log = logging.getLogger(__name__)

STEP = "trainer/global_step"


class RunLogger(WandbLogger):
    """Log to W&B, offline if its server cannot be reached.

    Args:
        axes: metric, or a pattern such as `val/*`, to the metric on its x-axis; the others have the optimizer step.
        summaries: metric to the statistic of its curve that summarizes the run: `max`, `min`, `last`, `mean`, or
            several, separated by commas.
        settings: of Lightning's logger and of `wandb.init`.
    """

    def __init__(
        self, *, axes: Mapping[str, str] | None = None, summaries: Mapping[str, str] | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.axes, self.summaries = dict(axes or {}), dict(summaries or {})
        self._defined = False

    @property
    def is_kept(self) -> bool:
        """Whether the run is stored, which WANDB_MODE=disabled prevents."""
        return self._wandb_init.get("mode") != "disabled"

    @property
    def experiment(self) -> Run:
        """The run, started at the first access."""
        if getattr(rank_zero_only, "rank", 0) != 0:
            return super().experiment
        try:
            run = super().experiment
        except Exception as error:
            if not self._is_unreachable(error):
                raise
            log.warning("W&B cannot be reached (%s): this run is stored offline", one_line(error, 200))
            self._wandb_init["mode"] = "offline"
            self._log_model = False
            run = super().experiment
        if not self._defined:
            self._defined = True
            self._define(run)
        return run

    def _is_unreachable(self, error: Exception) -> bool:
        """Return whether a run failed to start for a reason that an offline run does not have."""
        import wandb

        return self._wandb_init.get("mode") == "online" and isinstance(error, wandb.errors.Error | OSError)

    def _define(self, run: Run) -> None:
        """Define the x-axis and the summary of each metric."""
        for axis in sorted({*self.axes.values()}):
            run.define_metric(axis, summary="none")
        for name, axis in self.axes.items():
            run.define_metric(name, step_metric=axis)
        for name, summary in self.summaries.items():
            run.define_metric(name, step_metric=self._axis(name), summary=summary)

    def _axis(self, name: str) -> str:
        """Return the x-axis of a metric, by its name or by the pattern that it matches."""
        patterns = [key for key in self.axes if key.endswith("*") and name.startswith(key[:-1])]
        return self.axes.get(name) or self.axes.get(max(patterns, key=len, default=""), STEP)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log settings flat, as `model/lr`: columns to filter and group by."""
        super().log_hyperparams(flatten(vars(params) if isinstance(params, Namespace) else params))


def log_histograms(loggers: Iterable[Logger], values: Mapping[str, Sequence[float]]) -> None:
    """Log histograms of numbers to W&B, by name; other loggers have none."""
    trackers = [logger for logger in loggers if isinstance(logger, RunLogger)]
    shown = {name: list(numbers) for name, numbers in values.items() if len(numbers)}
    if not trackers or not shown:
        return
    import wandb

    for tracker in trackers:
        tracker.experiment.log({name: wandb.Histogram(numbers) for name, numbers in shown.items()})
