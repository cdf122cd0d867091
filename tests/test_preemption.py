"""kill -TERM in the middle of a training of two processes, and its command again: the same weights as without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.conftest import ROOT

SMALL = (
    *("experiment=scratch", "trainer=cpu", "trainer.max_epochs=2", "logger=csv", "extras.print_config=false"),
    *("data.sizes.train=1024", "data.sizes.validation=16", "data.sizes.test=16", "test=false"),
    *("callbacks.concept_detectors.every_n_epochs=0", "concepts.size=20"),
)
TWO = ("trainer.devices=2", "trainer.strategy=ddp", "datamodule.batch_size=16")
DONE = 10  # steps of the second epoch, of 1024 / 32, before the signal


class Waits(Callback):
    """Holds up the first process in the second epoch until it has been sent a signal."""

    def __init__(self, folder: str) -> None:
        self.here, self.told = Path(folder, "here"), Path(folder, "told")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *others: Any) -> None:
        if trainer.is_global_zero and trainer.current_epoch == 1 and others[-1] == DONE - 1:
            self.here.touch()
            until = time.monotonic() + 600
            while not self.told.exists() and time.monotonic() < until:
                time.sleep(0.02)


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "train.py", *SMALL, f"hydra.run.dir={folder}", *options]
    place = os.environ | {"PROJECT_ROOT": str(folder.parent), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    return subprocess.Popen(command, cwd=ROOT, env=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the last epoch."""
    found: dict[str, torch.Tensor] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return found


def best(folder: Path) -> float:
    """Validation accuracy of the best epoch so far."""
    callbacks = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    (found,) = [state["best_model_score"] for name, state in callbacks.items() if name.startswith("BestCheckpoint")]
    return float(found)


@pytest.mark.slow
def test_a_killed_training_comes_to_the_same_end(tmp_path: Path) -> None:
    whole, killed, resumed = (tmp_path / name for name in ("whole", "killed", "resumed"))
    process = start(whole, *TWO)
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    waits = ("+callbacks.waits._target_=tests.test_preemption.Waits", f"+callbacks.waits.folder={tmp_path}")
    process = start(killed, *TWO, *waits)
    until = time.monotonic() + 600
    while not (tmp_path / "here").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    (tmp_path / "told").touch()
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 143, said
    point = killed / "checkpoints" / "resume.ckpt"
    assert f"ckpt_path={point}" in said.replace("\n", "")
    done = torch.load(point, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"][
        "completed"
    ]
    assert done == DONE
    process = start(resumed, *TWO, f"ckpt_path={point}")
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=1e-6)
    assert best(resumed) == best(whole)
