"""Tune a student: `python train.py experiment=mbt_r`. Every option is in configs/train.yaml."""

import hydra
from omegaconf import DictConfig

from introspect import cli


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
@cli.task
def main(cfg: DictConfig) -> dict[str, float]:
    """Make the data, train, test; returns every logged metric."""
    from introspect.app import train

    return train(cfg)


if __name__ == "__main__":
    cli.run(main)
