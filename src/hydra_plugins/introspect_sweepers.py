"""The sweepers of `-m`. Hydra takes plugins only from this namespace; what they do is in `introspect.sweeps`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from introspect.core.errors import InputError
from introspect.core.files import write_json
from introspect.sweeps import search
from introspect.sweeps.jobs import Job, outcome, plan
from introspect.sweeps.sweeper import ReportingSweeper, combinations

log = logging.getLogger(__name__)


class Grid(ReportingSweeper):
    """Every combination of the values given. Jobs that are finished in the sweep's folder are not made again.

    Args:
        params: values by setting, such as `seed: 1,2,3`; those of the command line replace them.
        max_batch_size: jobs that are handed to the launcher at once; None hands over all.
    """

    def __init__(self, params: dict[str, Any] | None = None, max_batch_size: int | None = None) -> None:
        super().__init__(params)
        self.max_batch_size = max_batch_size

    def sweep(self, arguments: list[str]) -> None:
        """Make the jobs that are not there yet.

        Raises:
            InputError: some did not finish.
        """
        overrides = self.begin(arguments)
        # All are composed before the first begins: a mistake in the last is found at once.
        jobs = plan(self.compose, combinations(overrides), self.folder)
        left = [job for job in jobs if not job.is_done]
        if len(left) < len(jobs):
            log.info("%d of %d jobs are finished in %s", len(jobs) - len(left), len(jobs), self.folder)
        size = self.max_batch_size or max(len(left), 1)
        for start in range(0, len(left), size):
            self.launch(left[start : start + size])
        self.end(jobs, f"the same command with hydra.sweep.dir={self.folder} makes only these")


class Search(ReportingSweeper):
    """Optuna proposes the settings, and `optimized_metric` tells it how good they were.

    Args:
        params: what is searched, such as `model.lr: tag(log, interval(1e-4, 1e-2))`, as on the command line.
        direction: whether more of `optimized_metric` is better or less.
        n_trials: how many trials there are in the end, over all starts; those that failed are among them.
        n_jobs: trials that are handed to the launcher at once.
        sampler: makes the sampler from its seed.
        seed: of the sampler.
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
        super().__init__(params)
        if direction not in ("maximize", "minimize"):
            raise InputError(f"hydra.sweeper.direction={direction}: expected maximize or minimize")
        if n_trials < 1 or n_jobs < 1:
            raise InputError("hydra.sweeper.n_trials and n_jobs: expected 1 or more")
        self.direction, self.n_trials, self.n_jobs, self.seed = direction, n_trials, n_jobs, seed
        self.sampler = sampler

    def sweep(self, arguments: list[str]) -> None:
        """Make trials until there are `n_trials`.

        Raises:
            InputError: nothing says what is optimised or searched, or all trials fail.
        """
        overrides = self.begin(arguments)
        if self.config.get("optimized_metric") is None:
            raise InputError("optimized_metric is required: a search needs the name of the metric that it optimises")
        search.journal(self.folder / search.JOURNAL)  # which says it if Optuna is missing
        fixed, space = search.split(overrides)
        if not space:
            raise InputError("nothing is searched: give a range, such as 'model.lr=tag(log,interval(1e-4,1e-2))'")
        settings = {**{name: str(each) for name, each in space.items()}, "direction": self.direction}
        settings |= {name: value for name, _, value in (item.partition("=") for item in fixed)}
        study = search.open_study(self.folder, self.direction, self.sampler(), settings)
        search.reclaim(study)
        # Seeded by how far it is, or a search that goes on would propose what it proposed first.
        study.sampler = self.sampler(seed=self.seed + len(study.get_trials(deepcopy=False)))
        jobs: list[Job] = []
        while (left := self.n_trials - len(search.made(study))) > 0:
            asked = [search.ask(study, space) for _ in range(min(self.n_jobs, left))]
            batch = [Job(trial.number, (*fixed, *values)) for trial, values in asked]
            self.launch(batch)
            for (trial, _), job in zip(asked, batch, strict=True):
                search.tell(study, trial, outcome(self.folder, job))
            jobs += batch
            if self.trouble or (all(outcome(self.folder, job).status == "failed" for job in jobs) and len(jobs) >= 3):
                break
        self._report(study)
        self.end(jobs, "a failed trial is not made again; the rest of the search stands")

    def _report(self, study: Any) -> None:
        """The best trial, in the log and in `best.json`."""
        found = search.best(study)
        if found is None:
            return
        number, value, overrides = found
        write_json(self.folder / "best.json", {"job": number, "value": value, "overrides": overrides})
        metric = self.config.optimized_metric
        log.info(
            "the best of %d trials is %d, %s=%g: %s", len(study.trials), number, metric, value, " ".join(overrides)
        )
