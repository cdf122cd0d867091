"""The contract of every measure of interpretability, and how its result is published.

A measure is a frozen dataclass of its options; calling it runs it. Its result becomes numbers and tables in files,
figures, a table in the terminal, and a part of a W&B run.
"""

from __future__ import annotations

import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from introspect.core.errors import InputError
from introspect.core.files import replacing, write_json
from introspect.core.inference import AUTO, chosen_device
from introspect.core.parquet import write_columns
from introspect.dissection.report.tables import TextTable
from introspect.vision.networks import MODEL, Network
from introspect.vision.preprocessing import Preprocess

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

Columns = Mapping[str, Tensor | Sequence[Any]]


class Result(ABC):
    """The result of a measure.

    Attributes:
        name: name of the measure, of its metrics and of its files.
        source: what of it is published, and what is ours.
    """

    name: ClassVar[str]
    source: ClassVar[str]

    @property
    def place(self) -> str:
        """The prefix of the metrics."""
        return f"dissect/{self.name}"

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Describe how the result was made, as JSON takes it."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Return the numbers to log, by name, all of them finite."""

    @abstractmethod
    def tables(self) -> Mapping[str, Columns]:
        """Return tables for programs, by name."""

    @abstractmethod
    def text_table(self) -> TextTable:
        """Return the table for people."""

    @abstractmethod
    def figures(self) -> Mapping[str, Any]:
        """Draw figures of matplotlib, by name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measure(ABC):
    """A measure of interpretability with its options. `check` it early, call it to run it.

    Attributes:
        network: the network that is examined.
        folder: where the files go; it is made if it is absent.
        checkpoint: where the weights come from, for reports; None takes what the network says.
        preprocessing: of the pixels: `model` takes the network's own, else as in `preprocessing.preprocessing`.
        batch_size: images that go through the network at once.
        num_workers: processes that read images; 0 reads in this one.
        device: `auto` takes a CUDA GPU where there is one.
        seed: of all that is drawn at random.
    """

    network: Network
    folder: str | Path
    checkpoint: str | None = None
    preprocessing: str | Preprocess | Sequence[Sequence[float]] = MODEL
    batch_size: int = 32
    num_workers: int = 0
    device: str = AUTO
    seed: int = 0

    def check(self) -> None:
        """Refuse impossible options, before hours of work and before an image is read.

        Raises:
            InputError: an option is impossible, or a library is not installed.
        """
        self.prepare()
        chosen_device(self.device)

    def prepare(self) -> Preprocess:
        """Return the preprocessing of the pixels."""
        return self.network.prepared_as(self.preprocessing)

    @property
    def weights(self) -> str:
        """Where the weights come from."""
        return self.checkpoint or self.network.source

    @abstractmethod
    def __call__(self, loggers: Iterable[Logger] = ()) -> dict[str, float]:
        """Run the measure, write its files and show its result.

        Args:
            loggers: of the run; W&B's get tables and figures. The numbers are for the caller to log.

        Returns:
            The numbers, by name.

        Raises:
            InputError: an option is impossible, or the images do not suit the network.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishedMeasure(Measure):
    """A measure whose result goes through `publish`.

    Attributes:
        figure: whether figures are drawn.
    """

    figure: bool = True

    def check(self) -> None:
        """See `Measure`."""
        super().check()
        if self.figure:
            library("matplotlib", "figures are drawn by matplotlib (measure.figure=false draws none)")

    @abstractmethod
    def result(self) -> Result:
        """Run the measure."""

    def __call__(self, loggers: Iterable[Logger] = ()) -> dict[str, float]:
        """See `Measure`."""
        self.check()
        return publish(self.result(), self.folder, loggers, figure=self.figure)


def publish(
    result: Result, folder: str | Path, loggers: Iterable[Logger] = (), *, figure: bool = True
) -> dict[str, float]:
    """Write, show and log a result.

    `<name>.json` holds settings and numbers, `<name>_<table>.parquet` the tables, `<name>_<figure>.png` the figures;
    `metrics.json` holds the numbers alone, as after every run. The numbers are for the caller to log.

    Args:
        result: of a measure.
        folder: where the files go; it is made if it is absent.
        loggers: of the run; W&B's get the table and the figures.
        figure: whether figures are drawn.

    Returns:
        The numbers.
    """
    import rich

    folder = Path(folder)
    metrics = result.metrics()
    content = {"measure": result.name, "source": result.source, "settings": result.settings(), "metrics": metrics}
    for name, written in ((result.name, content), ("metrics", metrics)):
        write_json(folder / f"{name}.json", written, allow_nan=False)
    for name, columns in result.tables().items():
        write_columns(folder / f"{result.name}_{name}.parquet", **columns)
    pictures = _draw(result, folder) if figure else {}
    rich.print(result.text_table().table())
    _track(result, pictures, loggers)
    return metrics


def library(name: str, purpose: str) -> Any:
    """Import a module of an optional library.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise InputError(f'{purpose}, and {package} is not installed: pip install "introspect[measures]"') from None


def canvas(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """Make a figure of matplotlib and its axes [rows, columns], each of that size in inches, without a display."""
    figure = library("matplotlib.figure", "figures are drawn by matplotlib").Figure(
        figsize=(columns * width, rows * height), layout="constrained"
    )
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _draw(result: Result, folder: Path) -> dict[str, Path]:
    paths = {}
    for name, drawn in result.figures().items():
        paths[name] = folder / f"{result.name}_{name}.png"
        with replacing(paths[name]) as partial:
            drawn.savefig(partial, dpi=120, format="png")
        log.info("figure: %s", paths[name])
    return paths


def _track(result: Result, pictures: Mapping[str, Path], loggers: Iterable[Logger]) -> None:
    from lightning.pytorch.loggers import WandbLogger

    table = result.text_table()
    for tracker in (logger for logger in loggers if isinstance(logger, WandbLogger)):
        data = [[str(cell) if isinstance(cell, str) else float(cell) for cell in row] for row in table.rows]
        tracker.log_table(f"{result.place}/table", columns=list(table.columns), data=data)
        for name, path in pictures.items():
            tracker.log_image(f"{result.place}/{name}", [str(path)])
