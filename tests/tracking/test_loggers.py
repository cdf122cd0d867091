"""The loggers: W&B without an account is offline, silent and closed at the end; the table has several writers."""

from __future__ import annotations

import csv
import logging
import os
import pickle
from pathlib import Path

import pytest

from introspect.tracking.loggers import CurvesLogger, finish_wandb, is_logged_in, run_folders, wandb_logger
from tests.tracking.reading import Offline


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_API_KEY", "NETRC", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_account")
def test_logged_in_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_logged_in()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert is_logged_in()


@pytest.mark.usefixtures("no_account")
def test_logged_in_by_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai\n  login user\n  password abc\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert is_logged_in()
    netrc.write_text("machine api.forge.coreweave.com\n  login user\n  password abc\n")
    assert is_logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not is_logged_in()
    netrc.write_text("nonsense !!!")
    assert not is_logged_in()


@pytest.mark.usefixtures("no_account")
def test_a_run_without_an_account_is_offline_and_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import wandb

    caplog.set_level(logging.INFO)
    ids = []
    for _ in range(2):
        logger = wandb_logger(project="p", save_dir=tmp_path, tags=["a"], log_model=True)
        logger.log_metrics({"x": 1.0}, step=0)
        assert wandb.run is not None
        assert wandb.run.offline
        ids.append(wandb.run.id)
        finish_wandb()
        assert wandb.run is None
    assert ids[0] != ids[1]
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
    assert f"wandb sync {tmp_path}/wandb/offline-run-" in caplog.text
    assert "WANDB_MODE" not in os.environ  # the next run decides anew


def test_wandb_mode_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = wandb_logger(project="p", save_dir=tmp_path, offline=True)
    logger.log_metrics({"x": 1.0}, step=0)
    assert not list(tmp_path.glob("wandb/offline-run-*"))
    finish_wandb()


def test_a_checkpoint_resumes_its_own_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = wandb_logger(project="p", save_dir=tmp_path / "run", offline=True)
    name = first.experiment.id
    finish_wandb()
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    second = wandb_logger(project="p", save_dir=tmp_path / "next", offline=True, continues=checkpoint)
    assert second.experiment.id == name
    second.log_metrics({"x": 1.0}, step=7)
    finish_wandb()
    kept = Offline(run_folders(tmp_path / "next/x")[0])
    assert (kept.run.run_id, kept.history[0]["trainer/global_step"]) == (name, 7)
    other = wandb_logger(project="p", save_dir=tmp_path / "third", offline=True, continues=tmp_path / "hub/id")
    assert other.experiment.id != name
    finish_wandb()


def test_another_process_continues_the_table(tmp_path: Path) -> None:
    logger = CurvesLogger(tmp_path, name="csv")
    logger.log_hyperparams({"a": 1})
    forked = pickle.dumps(logger)  # as each part of a run under ddp_spawn gets it
    for metrics in ({"train/loss": 1.0}, {"test/loss": 2.0}, {"train/loss": 3.0}):
        part = pickle.loads(forked)
        part.log_metrics(metrics, step=0)
        part.save()
    rows = list(csv.DictReader((tmp_path / "csv/version_0/metrics.csv").open()))
    assert [(row["train/loss"], row["test/loss"]) for row in rows] == [("1.0", ""), ("", "2.0"), ("3.0", "")]
