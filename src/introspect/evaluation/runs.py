"""A run: what a model and its baseline answered to the same questions, and the folder that keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from introspect.evaluation.rollouts import Rollout, failed_requests, load_rollouts, save_rollouts

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Runs:
    """Rollouts of a model and of its baseline.

    Attributes:
        model: rollouts of the model.
        baseline: rollouts of the baseline; None without one.
        model_failed: requests to the model that were never answered, for which there is no rollout.
        baseline_failed: requests to the baseline that were never answered.
    """

    model: Sequence[Rollout] = ()
    baseline: Sequence[Rollout] | None = None
    model_failed: int = 0
    baseline_failed: int = 0

    @classmethod
    def of(cls, requests: int, model: Sequence[Rollout], baseline: Sequence[Rollout] | None) -> Runs:
        """Make the run of so many requests to each side, counting those that gave no rollout."""
        lost = 0 if baseline is None else requests - len(baseline)
        return cls(model, baseline, requests - len(model), lost)

    @classmethod
    def merge(cls, parts: Iterable[Runs]) -> Runs:
        """Join parts of a run, each rollout once: Lightning may give a question to two processes."""
        parts = list(parts)
        baselines = [part.baseline for part in parts if part.baseline is not None]
        return cls(
            _unique(part.model for part in parts),
            _unique(baselines) if baselines else None,
            sum(part.model_failed for part in parts),
            sum(part.baseline_failed for part in parts),
        )

    @classmethod
    def load(cls, model: str | Path, baseline: str | Path | None = AUTO) -> Runs:
        """Read the rollouts of Parquet files, or of runs' folders with `rollouts/{model,baseline}.parquet`.

        Args:
            model: a file, or a run's folder.
            baseline: another one, whose model is the baseline; `auto` takes the one in the same folder, if `model` is a
                folder; None takes none.

        Raises:
            InputError: a file is missing, or holds no rollouts.
        """
        path = _rollouts_file(model)
        if baseline == AUTO:
            beside = path.with_name("baseline.parquet")
            baseline = beside if Path(model).is_dir() and beside.is_file() else None
        if baseline is None:
            return cls(load_rollouts(path), None, failed_requests(path))
        other = _rollouts_file(baseline)
        return cls(load_rollouts(path), load_rollouts(other), failed_requests(path), failed_requests(other))

    def save(self, folder: str | Path) -> None:
        """Write `rollouts/{model,baseline}.parquet` into a folder.

        Raises:
            InputError: a side has no rollouts.
        """
        save_rollouts(self.model, Path(folder) / "rollouts" / "model.parquet", self.model_failed)
        if self.baseline is not None:
            save_rollouts(self.baseline, Path(folder) / "rollouts" / "baseline.parquet", self.baseline_failed)

    def about(self, questions: set[str]) -> Runs:
        """Keep the rollouts of questions of these ids; the counts of failed requests stay."""
        model, baseline = (
            None if side is None else [rollout for rollout in side if rollout.example_id in questions]
            for side in (self.model, self.baseline)
        )
        return replace(self, model=model or [], baseline=baseline)


def _unique(parts: Iterable[Iterable[Rollout]]) -> list[Rollout]:
    return list({(rollout.example_id, rollout.rollout_id): rollout for part in parts for rollout in part}.values())


def _rollouts_file(source: str | Path) -> Path:
    path = Path(source)
    if not path.is_dir():
        return path
    return (path / "rollouts" if (path / "rollouts").is_dir() else path) / "model.parquet"
