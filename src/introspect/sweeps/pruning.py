"""End a trial of a search that is worse than the others were after as many epochs."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer

from introspect.core.errors import InputError, Pruned
from introspect.sweeps.search import NAME, journal

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Reports the value of each epoch to the search, and raises `Pruned` if its pruner decides so or the value is NaN.

    Outside of a search, where there is no journal, it does nothing.

    Args:
        monitor: the metric that the search optimises.
        journal: the file of the search.
        trial: number of the trial.
        pruner: compares trials.
    """

    def __init__(self, *, monitor: str, journal: str | Path, trial: int | str, pruner: BasePruner) -> None:
        if not isinstance(monitor, str):
            raise InputError("callbacks.pruning.monitor: give optimized_metric=…, the metric that the search optimizes")
        self.monitor, self.journal, self.trial, self.pruner = monitor, Path(journal), trial, pruner

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the value, and end the trial if it is not worth continuing.

        Raises:
            Pruned: the trial ends.
        """
        value = trainer.callback_metrics.get(self.monitor)
        if value is None or not self.journal.is_file():
            return
        is_hopeless = trainer.is_global_zero and self._is_hopeless(float(value), trainer.current_epoch)
        if trainer.strategy.broadcast(is_hopeless):
            raise Pruned(f"pruned after epoch {trainer.current_epoch}: {self.monitor} is {float(value):g}")

    def _is_hopeless(self, value: float, epoch: int) -> bool:
        from optuna import load_study

        if not math.isfinite(value):
            return True
        storage = journal(self.journal)
        study = load_study(study_name=NAME, storage=storage)
        number = storage.get_trial_id_from_study_id_trial_number(study._study_id, int(self.trial))
        storage.set_trial_intermediate_value(number, epoch, value)
        return self.pruner.prune(study, storage.get_trial(number))
