"""W&B without an account: offline, silent, and closed at the end."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from introspect.tracking.wandb import finish, is_logged_in, wandb_logger


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


@pytest.mark.usefixtures("no_account")
def test_a_broken_netrc_is_no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("nonsense !!!")
    monkeypatch.setenv("NETRC", str(netrc))
    assert not is_logged_in()


@pytest.mark.usefixtures("no_account")
def test_offline_without_an_account_and_closed_afterwards(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import os

    import wandb

    caplog.set_level(logging.INFO)
    ids = []
    for _ in range(2):
        logger = wandb_logger(project="p", save_dir=tmp_path, tags=["a"], log_model=True)
        logger.log_metrics({"x": 1.0}, step=0)
        assert wandb.run is not None
        assert wandb.run.offline
        ids.append(wandb.run.id)
        finish()
        assert wandb.run is None
    assert ids[0] != ids[1]
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
    assert f"wandb sync {tmp_path}/wandb/offline-run-" in caplog.text
    assert "WANDB_MODE" not in os.environ  # the next run decides anew


def test_the_users_own_mode_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = wandb_logger(project="p", save_dir=tmp_path, offline=True)
    logger.log_metrics({"x": 1.0}, step=0)
    assert not list(tmp_path.glob("wandb/offline-run-*"))
    finish()
