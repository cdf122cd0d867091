"""Curves as a table on disk, also when each part of a run has processes of its own."""

from __future__ import annotations

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only


class CurvesLogger(CSVLogger):
    """Lightning's CSV logger, which under `ddp_spawn` could not go on with the table of another process.

    Training and test run in processes that are started apart from each other: the second one begins with a table whose
    columns it has never seen.
    """

    @rank_zero_only
    def save(self) -> None:
        """Write what was logged since the last time; the columns that the file has already stay."""
        writer = self.experiment
        path = Path(writer.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                header = next(csv.reader(file), [])
            writer.metrics_keys = sorted({*writer.metrics_keys, *header})
        super().save()
