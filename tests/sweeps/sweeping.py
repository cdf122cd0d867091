"""A sweep through Hydra itself, in this process, with a task that is a function of the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from tests.composing import CONFIGS

ROOT_CONFIG = """
defaults:
  - _self_
  - hydra: default
  - study: null
  - hparams_search: null
task_name: train
optimized_metric: null
seed: 1
a: 0
b: x
paths: {log_dir: LOGS, output_dir: "${hydra:runtime.output_dir}"}
"""


def sweep(folder: Path, overrides: list[str], task: Callable[[DictConfig], Any], more: str = "") -> Path:
    """Make a sweep of the task in `folder`/sweep, with the shipped Hydra configs; returns its folder."""
    configs = folder / "configs"
    if not configs.is_dir():
        shutil.copytree(CONFIGS / "hydra", configs / "hydra")
        for group in ("study", "hparams_search"):
            (configs / group).mkdir()
    (configs / "train.yaml").write_text(ROOT_CONFIG.replace("LOGS", str(folder / "logs")) + more)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(configs), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        hydra.multirun(
            config_name="train",
            task_function=task,
            overrides=["hydra.mode=MULTIRUN", f"hydra.sweep.dir={folder}/sweep", *overrides],
            with_log_configuration=False,
        )
    return folder / "sweep"
