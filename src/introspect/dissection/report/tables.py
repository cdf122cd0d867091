"""Tables for people: in the terminal, and for Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from introspect.core.run_logger import log_histograms
from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.report.pictures import pictures
from introspect.dissection.result import Dissection, display

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from rich.table import Table


class TextTable(NamedTuple):
    """A table for people.

    Attributes:
        title: a line above the table.
        columns: the header.
        rows: cells as text or numbers.
        caption: a line below the table.
        left: number of columns of text, which are aligned on the left.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]
    caption: str
    left: int = 1

    def table(self, *, no_wrap: bool = False) -> Table:
        """Return the table for the terminal; with `no_wrap` cells of numbers stay on one line."""
        from rich.box import SIMPLE_HEAD
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=escape(self.title) or None)
        table.title_justify, table.caption = "left", escape(self.caption)
        for number, column in enumerate(self.columns):
            options: dict[str, Any] = {"justify": "right", "no_wrap": no_wrap} if number >= self.left else {}
            table.add_column(escape(column), overflow="fold", **options)
        for row in self.rows:
            table.add_row(*(escape(cell if isinstance(cell, str) else f"{cell:.4g}") for cell in row))
        return table


def detector_table(dissection: Dissection, rows: int = 15) -> Table:
    """Tabulate the concepts that most units detect, with the number of units and the best IoU."""
    summary, concepts = dissection.summary(), dissection.unique()
    by_category = ", ".join(f"{name} {summary[name]}" for name in dissection.categories)
    title = f"{dissection.layer}: {summary['total']} of {dissection.units} units detect {summary['unique']} concepts"
    best = {detector.label: detector for detector in reversed(dissection.detectors())}
    cells = [
        (display(label), best[label].category, str(units), f"{best[label].iou:.3f}")
        for label, units in list(concepts.items())[:rows]
    ]
    more = f"; {len(concepts) - rows} more concepts" if len(concepts) > rows else ""
    caption = f"IoU from {dissection.iou_threshold:g}; {by_category}{more}"
    return TextTable(title, ("concept", "category", "units", "best IoU"), cells, caption, left=2).table()


def log_units(
    loggers: Iterable[Logger], dissection: Dissection, concepts: ConceptDataset, rows: int, name: str
) -> None:
    """Log to W&B the detectors by category, the best IoU of every unit, and a table of the best with their images.

    Args:
        loggers: of the run; only W&B's take tables.
        dissection: with examples.
        concepts: where the images are read.
        rows: of the table at most.
        name: they are logged under it, as `<name>/by_category`, `<name>/histogram/iou` and `<name>/units`.
    """
    from lightning.pytorch.loggers import WandbLogger

    trackers = [logger for logger in loggers if isinstance(logger, WandbLogger)]
    if not trackers:
        return
    import wandb

    detectors = dissection.detectors()[:rows]
    shown = pictures(dissection, concepts, [detector.unit for detector in detectors])
    bars = [[category, count] for category, count in dissection.by_category().items()]
    units: list[list[Any]] = [
        [d.unit, display(d.label), d.category, d.iou, *(wandb.Image(picture.image) for picture in shown[d.unit][:4])]
        for d in detectors
    ]
    width = max((len(row) for row in units), default=4) - 4
    padded = [row + [None] * (4 + width - len(row)) for row in units]
    columns = ["unit", "concept", "category", "IoU", *(f"image {number}" for number in range(1, width + 1))]
    log_histograms(trackers, {f"{name}/histogram/iou": dissection.best.iou.tolist()})
    for tracker in trackers:
        chart = wandb.plot.bar(wandb.Table(columns=["category", "detectors"], data=bars), "category", "detectors")
        tracker.experiment.log({f"{name}/by_category": chart})
        tracker.log_table(f"{name}/units", columns=columns, data=padded)
