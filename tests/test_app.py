"""The training command, on a task that has nothing to do with reasoning: it must not know one task from another."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from introspect.app import train
from introspect.core.errors import InputError
from tests.composing import compose_config


class Line(LightningModule):
    """y = w x, with a slope to be learnt."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(1, 1, bias=False)

    def _loss(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return (self.layer(x) - y).pow(2).mean()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self._loss(batch))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test/loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


class Points(LightningDataModule):
    """Points on y = 3 x. `prepare_data` leaves a file behind."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    def prepare_data(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "prepared").touch()

    def train_dataloader(self) -> DataLoader[Any]:
        x = torch.linspace(-1, 1, 32)[:, None]
        return DataLoader(TensorDataset(x, 3 * x), batch_size=8)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.train_dataloader()

    def test_dataloader(self) -> DataLoader[Any]:
        return self.train_dataloader()


class Refusing(Points):
    """A data module whose data are not there."""

    def prepare_data(self) -> None:
        raise InputError("data.files.train=nowhere.json: no such file")


class Untrained(Points):
    """Nothing to train on, only a test."""

    trains = False


def config(folder: Path, *overrides: str, datamodule: str = "Points") -> DictConfig:
    basics = ["+callbacks=default", "~callbacks.rich_progress_bar", "logger=csv", "extras.print_config=false"]
    cfg = compose_config("train", ["~experiment", "~task", *basics, "trainer=cpu", *overrides], folder)
    OmegaConf.set_struct(cfg, False)
    cfg.model = {"_target_": "tests.test_app.Line", "lr": 0.1}
    cfg.datamodule = {"_target_": f"tests.test_app.{datamodule}", "folder": str(folder / "data")}
    return cfg


def test_trains_tests_and_returns_every_metric(tmp_path: Path) -> None:
    metrics = train(config(tmp_path, "trainer.max_epochs=40"))
    assert metrics["test/loss"] == metrics["val/loss"] < 0.01
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert names == ["epoch_039_step_000160.ckpt", "last.ckpt"]
    assert "max_epochs: 40" in (tmp_path / "run/config_tree.log").read_text()
    hyperparameters = (tmp_path / "run/csv/version_0/hparams.yaml").read_text()
    assert OmegaConf.create(hyperparameters).parameters == {"total": 1, "trainable": 1}
    assert "${" not in hyperparameters


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    runs = [train(config(tmp_path / name, "trainer.max_epochs=2", f"seed={seed}")) for name, seed in ("a1", "b1", "c2")]
    assert runs[0] == runs[1] != runs[2]


def test_resuming_continues_to_the_same_end(tmp_path: Path) -> None:
    whole = train(config(tmp_path / "whole", "trainer.max_epochs=3"))
    train(config(tmp_path / "part", "trainer.max_epochs=2", "test=false"))
    checkpoint = tmp_path / "part/run/checkpoints/last.ckpt"
    resumed = train(config(tmp_path / "rest", "trainer.max_epochs=3", f"ckpt_path={checkpoint}"))
    assert resumed == whole


class Interrupting(Callback):
    """The user presses Ctrl-C in the third epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = config(tmp_path, "trainer.max_epochs=4")
    cfg.callbacks.interrupting = {"_target_": "tests.test_app.Interrupting"}
    with caplog.at_level("INFO"), pytest.raises(KeyboardInterrupt):
        train(cfg)
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    assert f"resume the training with ckpt_path={checkpoint}" in caplog.text
    del cfg.callbacks.interrupting
    cfg.ckpt_path = str(checkpoint)
    whole = train(config(tmp_path / "whole", "trainer.max_epochs=4"))
    assert train(cfg) == whole


class Stopping(Callback):
    """The machine is taken away within the second epoch, between the two batches of a step."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.current_epoch == 1 and trainer.fit_loop.batch_idx == 0:
            os.kill(os.getpid(), getattr(signal, self.name))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_saves_between_two_steps_and_says_how_to_go_on(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["trainer.max_epochs=4", "trainer.accumulate_grad_batches=2"]
    before = signal.getsignal(getattr(signal, name))
    cfg = config(tmp_path, *options)
    cfg.callbacks.stopping = {"_target_": "tests.test_app.Stopping", "name": name}
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as stopped:
        train(cfg)
    checkpoint = tmp_path / "run/checkpoints/resume.ckpt"
    assert stopped.value.code == 143
    assert f"resume the training with ckpt_path={checkpoint}" in caplog.text
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 3
    assert signal.getsignal(getattr(signal, name)) == before


class Leaving(Callback):
    """The machine is taken away within the test."""

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *others: Any) -> None:
        if others[2] == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_within_the_test_is_no_success(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = config(tmp_path, "trainer.max_epochs=2")
    cfg.callbacks.leaving = {"_target_": "tests.test_app.Leaving"}
    with pytest.raises(SystemExit) as stopped:
        train(cfg)
    assert stopped.value.code == 143
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    assert f"during the test: repeat it with train=false ckpt_path={checkpoint}" in caplog.text
    assert not (tmp_path / "run/metrics.json").exists()


def test_without_training_it_stops_when_the_data_are_made(tmp_path: Path) -> None:
    assert train(config(tmp_path, "train=false")) == {}
    assert (tmp_path / "data/prepared").exists()
    assert not (tmp_path / "run/checkpoints").exists()


def test_where_there_is_nothing_to_train_on_the_model_is_tested_as_it_is(tmp_path: Path) -> None:
    metrics = train(config(tmp_path, datamodule="Untrained"))
    assert metrics.keys() == {"test/loss"}
    assert not (tmp_path / "run/checkpoints").exists()
    assert train(config(tmp_path, "train=false", datamodule="Untrained")).keys() == {"test/loss"}
    assert train(config(tmp_path, "test=false", datamodule="Untrained")) == {}


def test_without_training_a_checkpoint_is_tested(tmp_path: Path) -> None:
    trained = train(config(tmp_path / "a", "trainer.max_epochs=2"))
    checkpoint = tmp_path / "a/run/checkpoints/last.ckpt"
    tested = train(config(tmp_path / "b", "train=false", f"ckpt_path={checkpoint}"))
    assert tested == {"test/loss": trained["test/loss"]}


def test_the_best_checkpoint_is_tested_where_one_is_monitored(tmp_path: Path) -> None:
    # A learning rate that makes things worse: the first epoch is the best.
    monitored = ["callbacks.model_checkpoint.monitor=val/loss", "callbacks.model_checkpoint.mode=min"]
    cfg = config(tmp_path, "trainer.max_epochs=4", *monitored)
    cfg.model.lr = 50.0
    metrics = train(cfg)
    assert metrics["test/loss"] < metrics["val/loss"]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_text("not a checkpoint"), "not a Lightning checkpoint"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: torch.save({"weights": 1}, path), "lacks state_dict"),
        (lambda path: torch.save({"state_dict": Path("x")}, path), "can be loaded safely"),
    ],
)
def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path, make: Any, complaint: str) -> None:
    path = tmp_path / "x.ckpt"
    make(path)
    with pytest.raises(InputError, match=complaint) as caught:
        train(config(tmp_path, f"ckpt_path={path}"))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_tags_are_enforced_only_if_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tags"):
        train(config(tmp_path, "tags=[]", "extras.enforce_tags=true"))


@pytest.mark.parametrize("mode", ["default", "fdr", "limit", "overfit", "profiler"])
def test_debug_modes_run(tmp_path: Path, mode: str) -> None:
    cfg = config(tmp_path, f"debug={mode}", "trainer.max_epochs=1")
    assert cfg.task_name == "debug"
    train(cfg)


def test_wandb_runs_offline_and_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    for run in ("a", "b"):
        train(config(tmp_path / run, "logger=wandb", "trainer.max_epochs=1"))
        assert wandb.run is None
        assert len(list((tmp_path / run / "run/wandb").glob("offline-run-*"))) == 1


def test_wandb_is_closed_when_a_run_fails(tmp_path: Path) -> None:
    import wandb

    with pytest.raises(InputError, match=r"nowhere\.json"):
        train(config(tmp_path, "logger=wandb", datamodule="Refusing"))
    assert wandb.run is None


def test_metrics_are_json(tmp_path: Path) -> None:
    assert json.dumps(train(config(tmp_path, "trainer.max_epochs=1")))
