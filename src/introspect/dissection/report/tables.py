"""Detectors as tables: for the terminal, and for Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from introspect.core.run_logger import log_histograms
from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.report.pictures import pictures
from introspect.dissection.result import Dissection, display

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from rich.table import Table


def detector_table(dissection: Dissection, rows: int = 15) -> Table:
    """Tabulate the concepts that most units detect, with the number of units and the best IoU."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    summary = dissection.summary()
    by_category = ", ".join(f"{name} {summary[name]}" for name in dissection.categories)
    title = f"{dissection.layer}: {summary['total']} of {dissection.units} units detect {summary['unique']} concepts"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=escape(title), title_justify="left")
    for column in ("concept", "category"):
        table.add_column(column)
    for column in ("units", "best IoU"):
        table.add_column(column, justify="right")
    best = {detector.label: detector for detector in reversed(dissection.detectors())}
    concepts = dissection.unique()
    for label, units in list(concepts.items())[:rows]:
        detector = best[label]
        table.add_row(escape(display(label)), escape(detector.category), str(units), f"{detector.iou:.3f}")
    more = f"; {len(concepts) - rows} more concepts" if len(concepts) > rows else ""
    table.caption = f"IoU from {dissection.iou_threshold:g}; {escape(by_category)}{more}"
    return table


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
