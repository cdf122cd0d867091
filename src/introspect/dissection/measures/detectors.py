"""Concept detectors as a measure: dissect layers of a network with any concepts, next to controls, and report."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from introspect.core.files import write_json, write_text
from introspect.core.inference import chosen_device
from introspect.dissection.comparison import compare_dissections
from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.engine import dissect
from introspect.dissection.files import save
from introspect.dissection.measures.base import Measure
from introspect.dissection.options import (
    IOU_THRESHOLD,
    QUANTILE,
    Rules,
    RunOptions,
    as_controls,
    as_names,
    whole_number,
)
from introspect.dissection.report import write_report
from introspect.dissection.report.tables import detector_table, log_units
from introspect.dissection.result import NO_CONTROL, Dissection
from introspect.dissection.tally import Presence
from introspect.vision.hooks import find_layers

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerMeasure(Measure):
    """A measure that dissects layers of a network.

    Attributes:
        layer: name of a module that puts out feature maps, or several.
        concepts: the images and what is in them.
        quantile: fraction of cells above a unit's threshold.
        iou_threshold: smallest IoU of a detector.
        presence: in which images a category counts, see `tally`.
        cache_dir: folder of the temporary files; None takes the system's.
    """

    layer: str | Sequence[str]
    concepts: ConceptDataset
    quantile: float = QUANTILE
    iou_threshold: float = IOU_THRESHOLD
    presence: Presence = "lite"
    cache_dir: str | Path | None = None

    def check(self) -> None:
        """See `Measure`."""
        super().check()
        find_layers(self.network.module, as_names(self.layer))
        Rules(self.quantile, self.iou_threshold, self.presence)

    def dissect(self, concepts: ConceptDataset, **options: Any) -> dict[str, Dissection]:
        """Dissect the layers with these concepts; the options are those of `engine.dissect`."""
        found = dissect(
            self.network.module,
            self.layer,
            concepts,
            quantile=self.quantile,
            iou_threshold=self.iou_threshold,
            presence=self.presence,
            preprocessing=self.prepare(),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            device=chosen_device(self.device),
            cache_dir=self.cache_dir,
            **options,
        )
        return {key: replace(each, network=self.network.name, checkpoint=self.weights) for key, each in found.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Detectors(LayerMeasure):
    """Count the concept detectors of layers, next to controls, and report them.

    The numbers are `dissect/detectors/total`, …: those of `Dissection.summary`; of each control
    `dissect/control/rotation/detectors/…`. With several layers they are `dissect/<layer>/…`. The folder gets
    `metrics.json`, `comparison.md` and a folder of each layer.

    Attributes:
        controls: what each layer is compared with, see `engine.dissect`.
        rotations: number of random rotations.
        examples: images per unit in the report.
        report: whether `report.html` is written next to the files of each layer.
        table_rows: units in the W&B table at most; 0 logs none.
    """

    controls: str | Sequence[str] | None = ("rotation", "labels")
    rotations: int = 3
    examples: int = 8
    report: bool = True
    table_rows: int = 100

    def check(self) -> None:
        """See `Measure`."""
        super().check()
        RunOptions(
            as_controls(self.controls), self.rotations, self.examples, self.batch_size, self.num_workers, self.seed
        )
        whole_number("table_rows", self.table_rows, 0)

    def __call__(self, loggers: Iterable[Logger] = ()) -> dict[str, float]:
        """See `Measure`."""
        self.check()
        found = self.dissect(
            self.concepts,
            controls=self.controls or (),
            rotations=self.rotations,
            examples=self.examples if self.report or self.table_rows else 0,
            seed=self.seed,
        )
        metrics = _write(found, self.concepts, Path(self.folder), self.report, self.seed)
        for each in found.values():
            if self.table_rows and not each.control:
                prefix = f"dissect/{each.layer}" if len(as_names(self.layer)) > 1 else "dissect"
                log_units(loggers, each, self.concepts, self.table_rows, prefix)
        return metrics


def _write(
    found: Mapping[str, Dissection], concepts: ConceptDataset, folder: Path, report: bool, seed: int
) -> dict[str, float]:
    """Write all files and show the tables; return the metrics."""
    import rich

    groups: dict[tuple[str, str], list[Dissection]] = {}
    for key, each in found.items():
        groups.setdefault((each.layer, each.control), []).append(each)
        place = folder / each.layer
        save(each, place / key.removeprefix(f"{each.layer}:") if each.control else place)
        if each.control:
            continue
        rich.print(detector_table(each))
        if report:
            write_report(each, concepts, place / "report.html")
            log.info("open %s in a browser", place / "report.html")
    layers = {layer for layer, _ in groups}
    metrics: dict[str, float] = {}
    for (layer, _), group in groups.items():
        metrics |= detector_metrics(group, f"{layer}/" if len(layers) > 1 else "")
    comparison = compare_dissections(
        {layer + (f":{control}" if control else ""): g for (layer, control), g in groups.items()}, seed=seed
    )
    rich.print(comparison.table())
    write_text(folder / "comparison.md", comparison.markdown())
    write_json(folder / "metrics.json", metrics)
    return metrics


def detector_metrics(dissections: Dissection | Sequence[Dissection], prefix: str = "") -> dict[str, float]:
    """Return counts as metrics: `dissect/detectors/total`, …; of a control `dissect/control/<name>/detectors/total`, ….

    Of several dissections of a kind, such as random rotations, these are the means; their standard deviations (with
    n - 1) are `dissect/control/<name>/deviation/total`, ….
    """
    group = [dissections] if isinstance(dissections, Dissection) else list(dissections)
    control = group[0].control
    place = f"dissect/{prefix}{f'control/{control}/' if control != NO_CONTROL else ''}"
    summaries = [each.summary() for each in group]
    metrics = {f"{place}detectors/{name}": fmean(s[name] for s in summaries) for name in summaries[0]}
    if len(group) > 1:
        metrics |= {f"{place}deviation/{name}": stdev(s[name] for s in summaries) for name in summaries[0]}
    return metrics
