"""The sweepers of `-m`. Hydra finds plugins only in this namespace; their parts are in `introspect.sweeps`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from introspect.cli import check
from introspect.core.errors import InputError
from introspect.core.files import write_json
from introspect.sweeps import search
from introspect.sweeps.jobs import Job, outcome, plan
from introspect.sweeps.sweeper import ReportingSweeper, combinations

log = logging.getLogger(__name__)


class Grid(ReportingSweeper):
    """Run every combination of the given values, except jobs that have finished in the sweep's folder.

    Args:
        params: values by setting, such as `seed: 1,2,3`; those of the command line replace them.
        max_batch_size: jobs that are handed to the launcher at once; None hands over all.
    """

    def __init__(self, params: dict[str, Any] | None = None, max_batch_size: int | None = None) -> None:
        super().__init__(params, check)
        self.max_batch_size = max_batch_size

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs that have not finished yet.

        Raises:
            InputError: a job cannot work, and none has started; or some did not finish.
        """
        jobs = plan(self.compose, combinations(self.begin(arguments)), self.folder)
        left = [job for job in jobs if not job.is_done]
        if len(left) < len(jobs):
            log.info("%d of %d jobs are finished in %s", len(jobs) - len(left), len(jobs), self.folder)
        size = self.max_batch_size or max(len(left), 1)
        for start in range(0, len(left), size):
            self.launch(left[start : start + size])
        self.end(jobs, f"the same command with hydra.sweep.dir={self.folder} runs only these")


class Search(ReportingSweeper):
    """Run trials whose settings Optuna proposes, guided by their `optimized_metric`.

    Args:
        params: what is searched, such as `model.lr: tag(log, interval(1e-4, 1e-2))`, as on the command line.
        direction: whether a higher or a lower `optimized_metric` is better.
        n_trials: trials in all, over all starts, with those that failed.
        n_jobs: trials that are handed to the launcher at once.
        sampler: creates the sampler from its seed.
        seed: seed of the sampler.
    """

    def __init__(
        self,
        params: dict[str, Any] | None = None,
        *,
        direction: Literal["maximize", "minimize"],
        n_trials: int,
        sampler: Callable[..., Any],
        n_jobs: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(params, check)
        if direction not in ("maximize", "minimize"):
            raise InputError(f"hydra.sweeper.direction={direction}: expected maximize or minimize")
        if n_trials < 1 or n_jobs < 1:
            raise InputError("hydra.sweeper.n_trials and n_jobs: expected 1 or more")
        self.direction, self.n_trials, self.n_jobs, self.seed = direction, n_trials, n_jobs, seed
        self.sampler = sampler

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until there are `n_trials`.

        Raises:
            InputError: no metric or range is given, the trials cannot work, or some did not finish.
        """
        overrides = self.begin(arguments)
        if self.config.get("optimized_metric") is None:
            raise InputError("optimized_metric is required: a search needs the name of the metric that it optimizes")
        fixed, space = search.split(overrides)
        if not space:
            raise InputError("nothing is searched: give a range, such as 'model.lr=tag(log,interval(1e-4,1e-2))'")
        self.compose(0, [*fixed, *search.example(space)])
        settings = {**{name: str(each) for name, each in space.items()}, "direction": self.direction}
        settings |= {name: value for name, _, value in (item.partition("=") for item in fixed)}
        study = search.open_study(self.folder, self.direction, self.sampler(), settings)
        search.reclaim(study)
        # The seed depends on the progress, or a search that is resumed would repeat its first proposals.
        study.sampler = self.sampler(seed=self.seed + len(study.get_trials(deepcopy=False)))
        jobs: list[Job] = []
        while (left := self.n_trials - search.ended(study)) > 0:
            asked = [search.ask(study, space) for _ in range(min(self.n_jobs, left))]
            batch = [Job(trial.number, (*fixed, *values)) for trial, values in asked]
            self.launch(batch)
            for (trial, _), job in zip(asked, batch, strict=True):
                search.tell(study, trial, outcome(self.folder, job))
            jobs += batch
            all_failed = len(jobs) >= 3 and all(outcome(self.folder, job).status == "failed" for job in jobs)
            if self.launcher_error or all_failed:
                break
        if best := search.best(study):
            found = search.overrides_of(best.params)
            write_json(self.folder / "best.json", {"job": best.number, "value": best.value, "overrides": found})
            at = f"{self.config.optimized_metric}={best.value:g}: {' '.join(found)}"
            log.info("the best of %d trials is %d, %s", len(study.trials), best.number, at)
        self.end(jobs, "a failed trial is not run again; the other trials count")
