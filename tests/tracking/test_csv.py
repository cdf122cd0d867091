"""The table of a run, written by one process after another."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path

from introspect.tracking.csv import CurvesLogger


def test_another_process_goes_on_with_the_table(tmp_path: Path) -> None:
    logger = CurvesLogger(tmp_path, name="csv")
    logger.log_hyperparams({"a": 1})
    forked = pickle.dumps(logger)  # as each part of a run under ddp_spawn gets it
    for metrics in ({"train/loss": 1.0}, {"test/loss": 2.0}, {"train/loss": 3.0}):
        part = pickle.loads(forked)
        part.log_metrics(metrics, step=0)
        part.save()
    rows = list(csv.DictReader((tmp_path / "csv/version_0/metrics.csv").open()))
    assert [(row["train/loss"], row["test/loss"]) for row in rows] == [("1.0", ""), ("", "2.0"), ("3.0", "")]
