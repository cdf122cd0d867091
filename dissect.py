"""Count what a network's units detect: `python dissect.py ckpt_path=… layer=layer4`. Options: configs/dissect.yaml."""

import hydra
from omegaconf import DictConfig

from introspect import cli


@hydra.main(version_base="1.3", config_path="configs", config_name="dissect")
@cli.task
def main(cfg: DictConfig) -> dict[str, float]:
    """Measure the network; returns every number."""
    from introspect.app import dissect

    return dissect(cfg)


if __name__ == "__main__":
    cli.run(main)
