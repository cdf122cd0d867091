"""A checkpoint to go on from, written now and then and when the process is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException

SIGNALS = ("SIGTERM", "SIGUSR1")

log = logging.getLogger(__name__)


class ResumePoint(ModelCheckpoint):
    """A `ModelCheckpoint` that SIGTERM and SIGUSR1 make save too, before the training ends.

    Processes that train together end together, between two optimizer steps, whichever of them was told: Lightning's own
    handling sends messages between them from within a signal handler, and stops between the batches of one step. Within
    a step nothing is saved at all, as its gradients would be lost. Under SLURM, SIGUSR1 also queues the job again.
    """

    _told = _requeues = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, in place of Lightning, which puts back what was there before when the training is over."""
        super().on_train_start(trainer, pl_module)
        self._told = self._requeues = False
        # Spawned processes can not tell their parent, which waits for what they return: they die of a signal.
        spawned = isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)
        if spawned or threading.current_thread() is not threading.main_thread():
            return
        environment = getattr(trainer.strategy, "cluster_environment", None)
        queued = isinstance(environment, SLURMEnvironment) and environment.auto_requeue

        def listen(number: int, _: Any) -> None:
            self._told = True
            self._requeues |= queued and number != signal.SIGTERM  # which is what `scancel` sends

        for name in SIGNALS:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), listen)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop before the first batch of an optimizer step, if any process was told to.

        Raises:
            SIGTERMException: one was.
        """
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._stop_if_told(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to, after the last batch of an optimizer step."""
        is_last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if is_last or (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the test, if any process was told to after the last batch.

        Raises:
            SIGTERMException: one was.
        """
        super().on_train_end(trainer, pl_module)
        self._stop_if_told(trainer)

    def _stop_if_told(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._told, all=False):
            self._requeues = trainer.strategy.reduce_boolean_decision(self._requeues, all=False)
            raise SIGTERMException

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save if it was a signal: after another failure, in one process perhaps, the others would not take part."""
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]
        if not isinstance(exception, SIGTERMException) or trainer.state.fn != "fit" or trial:
            return
        self.best_model_path = self.format_checkpoint_name({})
        trainer.save_checkpoint(self.best_model_path)
        if self._requeues and trainer.is_global_zero:
            requeue()


def requeue() -> None:
    """Have SLURM start this job again, with the same number."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        log.warning("SLURM does not queue job %s again: %s", job, done.stderr.strip())
    else:
        log.info("SLURM job %s is queued again", job)


def left_by_requeued(folder: str) -> str | None:
    """The checkpoint that a job of SLURM left in its folder when it was queued again."""
    if not int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        return None
    point = Path(folder) / "checkpoints" / "resume.ckpt"
    if point.is_file():
        log.info("the job was queued again: it resumes with ckpt_path=%s", point)
        return str(point)
    log.warning(
        "the job was queued again, and there is no %s: the training starts anew. Its folder must be the same each "
        "time: hydra.run.dir=logs/train/runs/$SLURM_JOB_ID",
        point,
    )
    return None


class BestCheckpoint(ModelCheckpoint):
    """A `ModelCheckpoint` that knows which epoch was the best also where a training goes on in another folder."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning forgets the best where the folder is another one; nothing in that one is ever deleted."""
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})
