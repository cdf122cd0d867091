"""The numbers of a test in a file, for whoever compares runs."""

from __future__ import annotations

import json
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


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
            self.folder.mkdir(parents=True, exist_ok=True)
            values = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
            (self.folder / "metrics.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
