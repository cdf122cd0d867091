"""The size of the model, as the loggers keep it."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer


class ParameterCount(Callback):
    """Gives every logger the numbers of parameters, `parameters/total` and `parameters/trainable`."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count and log."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in pl_module.parameters()]
        total, trainable = sum(n for n, _ in sizes), sum(n for n, is_trained in sizes if is_trained)
        for logger in trainer.loggers:
            logger.log_hyperparams({"parameters": {"total": total, "trainable": trainable}})
