"""Composing the shipped configs in a test as the commands compose them."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

import introspect.assets  # noqa: F401 - registers the resolver that configs name embedded models with

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"


def compose_config(name: str, overrides: list[str], folder: Path) -> DictConfig:
    """The config of a command with all its output in `folder`; the Hydra part is set aside, as in a command."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(name, [f"paths.root_dir={folder}", *overrides], return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(folder / "run")
        HydraConfig.instance().set_config(cfg)
        del cfg["hydra"]
    return cfg
