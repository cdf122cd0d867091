"""What a measure leaves: numbers and tables as files, figures, a table in the terminal, and its part of a W&B run."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

from introspect.core.errors import InputError
from introspect.core.files import replacing, write_json
from introspect.core.parquet import write_columns

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

Columns = Mapping[str, Tensor | Sequence[Any]]


class Shown(NamedTuple):
    """A table for people: its title, its header, its rows as text or numbers, and a line below it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]
    caption: str


class Measured(Protocol):
    """The result of a measure. `name` is that of its files; `source` says what is published and what is ours."""

    name: str
    source: str

    def settings(self) -> dict[str, Any]:
        """How it was measured, as JSON takes it."""
        ...

    def metrics(self) -> dict[str, float]:
        """The numbers to log, by name, all of them finite."""
        ...

    def tables(self) -> Mapping[str, Columns]:
        """Tables for programs, by name."""
        ...

    def shown(self) -> Shown:
        """The table for people."""
        ...

    def figures(self) -> Mapping[str, Any]:
        """Figures of matplotlib, by name."""
        ...


def publish(
    result: Measured, folder: str | Path, loggers: Iterable[Logger] = (), *, figure: bool = True
) -> dict[str, float]:
    """Write and show a result.

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
    rich.print(_table(result.shown()))
    _track(result, pictures, loggers)
    return metrics


def library(name: str, purpose: str) -> Any:
    """A module of an optional library.

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


def check_figure(figure: bool) -> None:
    """Refuse to begin what could not be drawn in the end.

    Raises:
        InputError: matplotlib is not installed.
    """
    if figure:
        library("matplotlib", "figures are drawn by matplotlib (measure.figure=false draws none)")


def canvas(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """A figure of matplotlib and its axes [rows, columns], each of that size in inches; needs no display."""
    made = library("matplotlib.figure", "figures are drawn by matplotlib").Figure(
        figsize=(columns * width, rows * height), layout="constrained"
    )
    return made, made.subplots(rows, columns, squeeze=False, **options)


def _draw(result: Measured, folder: Path) -> dict[str, Path]:
    paths = {}
    for name, drawn in result.figures().items():
        paths[name] = folder / f"{result.name}_{name}.png"
        with replacing(paths[name]) as partial:
            drawn.savefig(partial, dpi=120, format="png")
        log.info("figure: %s", paths[name])
    return paths


def _table(shown: Shown) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=escape(shown.title))
    table.title_justify, table.caption = "left", escape(shown.caption)
    for number, column in enumerate(shown.columns):
        table.add_column(escape(column), justify="right" if number else "left", overflow="fold")
    for row in shown.rows:
        table.add_row(*(escape(cell if isinstance(cell, str) else f"{cell:.4g}") for cell in row))
    return table


def _track(result: Measured, pictures: Mapping[str, Path], loggers: Iterable[Logger]) -> None:
    from lightning.pytorch.loggers import WandbLogger

    shown, place = result.shown(), f"dissect/{result.name}"
    for tracker in (logger for logger in loggers if isinstance(logger, WandbLogger)):
        data = [[str(cell) if isinstance(cell, str) else float(cell) for cell in row] for row in shown.rows]
        tracker.log_table(f"{place}/table", columns=list(shown.columns), data=data)
        for name, path in pictures.items():
            tracker.log_image(f"{place}/{name}", [str(path)])
