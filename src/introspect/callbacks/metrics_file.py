"""The numbers of a test in a file, for whoever compares runs."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from introspect.core.files import write_json


class MetricsFile(Callback):
    """Writes every metric of the test to `metrics.json`: `{"test/accuracy": 0.81, "dissect/detectors/total": 12, …}`.

    Args:
        folder: where it goes.
    """

    def __init__(self, *, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it."""
        if trainer.is_global_zero:
            values = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
            write_json(self.folder / "metrics.json", values)
