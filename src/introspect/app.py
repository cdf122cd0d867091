"""The three commands, step by step. What differs between tasks is in the `_target_`s of the config."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf

from introspect.callbacks.resume_point import left_by_requeued
from introspect.core.errors import InputError, Pruned
from introspect.core.files import write_text
from introspect.core.protocols import Evaluation, HasInputs, MayTrain, Prepares
from introspect.core.resuming import read_checkpoint
from introspect.tracking.artifacts import log_artifacts
from introspect.tracking.config import code_version, config_tree, resolved_config
from introspect.tracking.loggers import finish_wandb

log = logging.getLogger(__name__)

STOPPED = 143  # the exit status of a process that SIGTERM ended, by the convention of shells


def train(cfg: DictConfig) -> dict[str, float]:
    """Prepare the data, train and test, as far as the config says.

    Args:
        cfg: configs/train.yaml, composed and checked.

    Returns:
        Every metric that was logged, the last value of each.

    Raises:
        InputError: for a mistake of the user.
    """
    introduce(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)
    ckpt_path = left_by_requeued(cfg.paths.output_dir) or cfg.ckpt_path
    if ckpt_path is not None:
        read_checkpoint(ckpt_path)
    metrics: dict[str, float] = {}
    with closing_trackers():
        datamodule: LightningDataModule = instantiate(cfg.datamodule)
        module: LightningModule = instantiate(cfg.model)
        loggers = build_loggers(cfg)
        trainer: Trainer = instantiate(cfg.trainer, callbacks=build_callbacks(cfg, loggers), logger=loggers)
        has_training = datamodule.trains if isinstance(datamodule, MayTrain) else True
        is_trained = cfg.train and has_training
        is_tested = cfg.test and (is_trained or ckpt_path is not None or not has_training)
        if is_trained or not is_tested:
            prepare(datamodule, module, trainer)
        if is_trained:
            fit(trainer, module, datamodule, ckpt_path)
            metrics |= logged(trainer)
        if is_tested:
            weights = best_checkpoint(trainer) if is_trained else ckpt_path
            test(trainer, module, datamodule, weights)
            metrics |= logged(trainer)
        publish(cfg, loggers, [ckpt_path, *(datamodule.inputs if isinstance(datamodule, HasInputs) else ())])
    log.info("the results of this run are in %s", cfg.paths.output_dir)
    return metrics


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Evaluate a model in the way that the config names.

    Args:
        cfg: configs/evaluate.yaml, composed and checked.

    Returns:
        Every metric.

    Raises:
        InputError: for a mistake of the user.
    """
    return _evaluated(cfg, cfg.evaluation)


def dissect(cfg: DictConfig) -> dict[str, float]:
    """Count the concept detectors of a network, or evaluate another `Measure` of how interpretable it is.

    Args:
        cfg: configs/dissect.yaml, composed and checked.

    Returns:
        Every number of the measure.

    Raises:
        InputError: for a mistake of the user.
    """
    return _evaluated(cfg, cfg.measure)


def _evaluated(cfg: DictConfig, part: DictConfig) -> dict[str, float]:
    """Call a part of the config that evaluates something, and log the numbers that it returns."""
    introduce(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)
    with closing_trackers():
        evaluated: Evaluation = instantiate(part)
        loggers = build_loggers(cfg)
        metrics = evaluated(loggers=loggers)
        for logger in loggers:
            logger.log_metrics(metrics)
            logger.save()
        publish(cfg, loggers, cfg.inputs)
    log.info("the results of this run are in %s", cfg.paths.output_dir)
    return metrics


def introduce(cfg: DictConfig) -> None:
    """Show and save what is about to run, and apply `extras`; only the first of several processes does."""
    if cfg.extras.ignore_warnings:
        warnings.filterwarnings("ignore")
        logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    if cfg.extras.enforce_tags and not cfg.tags:
        raise InputError("extras.enforce_tags is true and there are no tags: give tags=[…]")
    if rank_zero_only.rank != 0:
        return
    import rich

    folder = Path(cfg.paths.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    tree = config_tree(resolved_config(cfg))
    with (folder / "config_tree.log").open("w") as file:
        rich.print(tree, file=file)
    write_text(folder / "tags.log", f"{', '.join(cfg.tags)}\n")
    if cfg.extras.print_config:
        rich.print(tree)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in record.getMessage()


@contextmanager
def closing_trackers() -> Iterator[None]:
    """Close the W&B run in any case: the next run of a sweep would be written into it."""
    try:
        yield
    except BaseException as error:
        finish_wandb(failed=not isinstance(error, Pruned))
        raise
    finish_wandb()


def build_loggers(cfg: DictConfig) -> list[Logger]:
    """Create the loggers of the config, and log the settings of the run to each."""
    loggers: list[Logger] = _build_all(cfg.get("logger"))
    if rank_zero_only.rank == 0:
        for logger in loggers:
            logger.log_hyperparams({**resolved_config(cfg), "code": code_version()})
    return loggers


def publish(cfg: DictConfig, loggers: Sequence[Logger], inputs: Iterable[str | Path | None]) -> None:
    """Log the files that the run has written, and those that it has read, to W&B, in one process."""
    limit = OmegaConf.select(cfg, "extras.artifacts")
    if rank_zero_only.rank == 0 and limit is not None:
        log_artifacts(loggers, cfg.paths.output_dir, inputs=inputs, limit=limit)


def build_callbacks(cfg: DictConfig, loggers: Sequence[Logger]) -> list[Callback]:
    """Create the callbacks of the config, without loggers all but the one that needs them."""
    callbacks: list[Callback] = _build_all(cfg.get("callbacks"))
    return [callback for callback in callbacks if loggers or not isinstance(callback, LearningRateMonitor)]


def _build_all(group: DictConfig | None) -> list[Any]:
    """Instantiate every part of a config group that has a `_target_`, in the order of the config."""
    parts = (group or {}).values()
    return [instantiate(part) for part in parts if isinstance(part, DictConfig) and "_target_" in part]


def prepare(datamodule: LightningDataModule, module: LightningModule, trainer: Trainer) -> None:
    """Prepare the data, and the module if it is `Prepares`, in one process before the others start and wait for it."""
    if rank_zero_only.rank == 0:
        datamodule.prepare_data()
        if isinstance(module, Prepares):
            module.prepare(datamodule, trainer)


def fit(trainer: Trainer, module: LightningModule, datamodule: LightningDataModule, ckpt_path: str | None) -> None:
    """Train, and log how to resume if the user or a signal interrupts it.

    Raises:
        KeyboardInterrupt: the user interrupted it; Lightning would exit with the status of a failure.
        SystemExit: with status 143, a signal stopped it; Lightning would exit with that of success.
    """
    try:
        trainer.fit(module, datamodule, ckpt_path=ckpt_path, weights_only=True)
    except SIGTERMException:
        if trainer.is_global_zero and (newest := newest_checkpoint(trainer)):
            log.warning("stopped by a signal: resume the training with ckpt_path=%s", newest)
        raise _stopped(trainer) from None
    except SystemExit:
        if not trainer.interrupted:
            raise
        if newest := newest_checkpoint(trainer):
            log.info("interrupted: resume the training with ckpt_path=%s", newest)
        raise KeyboardInterrupt from None


def test(trainer: Trainer, module: LightningModule, datamodule: LightningDataModule, ckpt_path: str | None) -> None:
    """Test the weights of a checkpoint; None tests those in memory.

    Raises:
        SystemExit: with status 143, a signal stopped it; Lightning would exit with that of success.
    """
    try:
        trainer.test(module, datamodule, ckpt_path=ckpt_path, weights_only=True, verbose=False)
    except SIGTERMException:
        if trainer.is_global_zero and (weights := ckpt_path or newest_checkpoint(trainer)):
            log.warning("stopped by a signal during the test: repeat it with train=false ckpt_path=%s", weights)
        raise _stopped(trainer) from None


def _stopped(trainer: Trainer) -> SystemExit:
    # Lightning kills the first of several processes where another exits with a status, before it has logged all.
    return SystemExit(STOPPED if trainer.is_global_zero else 0)


def newest_checkpoint(trainer: Trainer) -> Path | None:
    """Return the newest file of the trainer's checkpoint callbacks."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    paths = [Path(path) for c in callbacks for path in (c.last_model_path, c.best_model_path) if path]
    return max((path for path in paths if path.is_file()), key=lambda path: path.stat().st_mtime, default=None)


def best_checkpoint(trainer: Trainer) -> str | None:
    """Return the checkpoint with the best monitored metric; None, for the weights in memory, without one."""
    callback = trainer.checkpoint_callback
    if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
        return callback.best_model_path
    return None


def logged(trainer: Trainer) -> dict[str, float]:
    """Return the metrics of the trainer's last run as numbers."""
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
