"""Measure a model beside a baseline: `python evaluate.py ckpt_path=… data=hotpotqa`. Options: configs/evaluate.yaml."""

import hydra
from omegaconf import DictConfig

from introspect import cli


@hydra.main(version_base="1.3", config_path="configs", config_name="evaluate")
@cli.task
def main(cfg: DictConfig) -> dict[str, float]:
    """Measure the model and its baseline; returns every metric."""
    from introspect.app import evaluate

    return evaluate(cfg)


if __name__ == "__main__":
    cli.run(main)
