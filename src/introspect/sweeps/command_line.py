"""Checks and changes of the command line of a sweep, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf


def is_swept() -> bool:
    """Return whether this is one of several runs: if it fails, the others still run."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def with_first_choices(arguments: Sequence[str], configs: Path) -> list[str]:
    """Put before each swept config group its first choice: `experiment=scratch` before `experiment=scratch,kd`.

    Before a sweep, Hydra composes its own config without what is swept, and refuses a setting that the default choice
    does not have, as in `-m experiment=scratch,kd concepts.size=100`. With the first choices, that config is the one of
    the sweep's first job. Sweepers take the last of two overrides of a key.

    Args:
        arguments: the command line, without the program.
        configs: the folder of the config groups.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    words: list[str] = []
    for word in arguments:
        if "=" in word and not word.startswith("-"):
            with suppress(HydraException):  # which Hydra itself reports
                override = parser.parse_override(word)
                if isinstance(override.value(), ChoiceSweep) and (configs / override.key_or_group).is_dir():
                    words.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}")
        words.append(word)
    return words


def launch_conflicts(cfg: DictConfig) -> Iterator[str]:
    """Yield a complaint if the strategy starts its other processes by the same command: under `-m`, the whole sweep."""
    from hydra.core.hydra_config import HydraConfig

    if not is_swept():
        return
    given = OmegaConf.select(cfg, "trainer.strategy")
    strategy = given.get("_target_", "").rpartition(".")[2].lower() if OmegaConf.is_dict(given) else str(given)
    restarts = strategy.startswith(("ddp", "fsdp", "deepspeed")) and not strategy.endswith(("_spawn", "_fork"))
    if restarts and not HydraConfig.get().launcher._target_.endswith("SlurmLauncher"):
        yield (
            f"-m does not go with trainer.strategy={strategy}, whose processes would each repeat the whole sweep: "
            "use trainer.strategy=ddp_spawn, hydra/launcher=submitit_slurm, or one command per run"
        )
