"""What the commands ask of the parts that a config names, beyond what Lightning does.

A plain `LightningModule` and a plain `LightningDataModule` will do: what is declared here is for those that need more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, Trainer
    from lightning.pytorch.loggers import Logger
    from torch import nn


@runtime_checkable
class MayTrain(Protocol):
    """A data module that may have nothing to train on; the model is then tested as it is."""

    @property
    def trains(self) -> bool:
        """Whether there is something to train on."""
        ...


@runtime_checkable
class HasInputs(Protocol):
    """A data module that reads files which another run may have made."""

    @property
    def inputs(self) -> Sequence[str | Path]:
        """These files, to be recorded at W&B."""
        ...


@runtime_checkable
class Seeded(Protocol):
    """A data module whose seed decides the order of its batches; dropout takes it too."""

    seed: int


@runtime_checkable
class Prepares(Protocol):
    """A module that trains or computes something before its own training, such as its teacher."""

    def prepare(self, data: LightningDataModule, trainer: Trainer) -> None:
        """Do so, in one process, before Lightning starts others."""
        ...


@runtime_checkable
class HasNetwork(Protocol):
    """A module that trains one network."""

    @property
    def network(self) -> nn.Module:
        """The network."""
        ...


class Evaluation(Protocol):
    """What evaluate.py and dissect.py call: `evaluation` and `measure` of their configs, all other arguments set."""

    def __call__(self, *, loggers: Iterable[Logger]) -> dict[str, float]:
        """Evaluate, write files and return the numbers; the command logs them.

        Args:
            loggers: of the run, for tables and figures.
        """
        ...
