"""Numbers of a run for those who compare runs: its metrics in a file, its size among the hyperparameters."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from introspect.core.files import write_json


class MetricsFile(Callback):
    """Writes every metric of the test to `metrics.json`: `{"test/accuracy": 0.81, "dissect/detectors/total": 12, …}`.

    Args:
        folder: of the file.
    """

    def __init__(self, *, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, in one process."""
        if trainer.is_global_zero:
            values = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
            write_json(self.folder / "metrics.json", values)


class ParameterCount(Callback):
    """Logs the numbers of parameters as hyperparameters, `parameters/total` and `parameters/trainable`."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count and log."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in pl_module.parameters()]
        total, trainable = sum(n for n, _ in sizes), sum(n for n, is_trained in sizes if is_trained)
        for logger in trainer.loggers:
            logger.log_hyperparams({"parameters": {"total": total, "trainable": trainable}})
