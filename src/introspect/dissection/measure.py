"""What `dissect.py` does: any network and any layers of it, with any concepts, beside controls."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from introspect.dissection.comparison import compare
from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.engine import Control, dissect
from introspect.dissection.files import save
from introspect.dissection.report import write_report
from introspect.dissection.report.tables import detector_table, log_units
from introspect.dissection.result import Dissection
from introspect.dissection.tally import Presence
from introspect.errors import InputError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

MODEL = "model"
AUTO = "auto"


def measure(
    *,
    network: nn.Module,
    layer: str | Sequence[str],
    concepts: ConceptDataset,
    folder: str | Path,
    quantile: float = 0.005,
    iou_threshold: float = 0.05,
    presence: Presence = "lite",
    preprocessing: str | Callable[[Tensor], Tensor] | Sequence[Sequence[float]] = MODEL,
    controls: Sequence[Control] = ("rotation", "labels"),
    examples: int = 8,
    report: bool = True,
    table_rows: int = 100,
    batch_size: int = 32,
    num_workers: int = 0,
    device: str = AUTO,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    loggers: Iterable[Logger] = (),
) -> dict[str, float]:
    """Dissect, and report.

    Args:
        network: what is dissected.
        layer: name of a module that puts out feature maps, or several.
        concepts: the images and what is in them.
        folder: where `metrics.json`, `comparison.md` and a folder of each layer go.
        quantile, iou_threshold, presence: see `engine.Rules`.
        preprocessing: of the pixels: `model` asks the network (its attribute `preprocess`); else as in
            `preprocessing.preprocessing`.
        controls: what each layer is compared with, see `engine.dissect`.
        examples: images per unit in the report.
        report: write `report.html` beside the files of each layer.
        table_rows: units in the W&B table at most; 0 logs none.
        batch_size, num_workers, cache_dir: see `engine.dissect`.
        device: `auto` takes a GPU where there is one.
        seed: of the controls.
        loggers: of the run.

    Returns:
        `dissect/detectors/total`, …: the numbers of `Dissection.summary`; of each control under
        `dissect/control/rotation/detectors/…`. With several layers `dissect/<layer>/…`.

    Raises:
        InputError: something that was named is not there, or can not be dissected.
    """
    import rich

    folder = Path(folder)
    layers = [layer] if isinstance(layer, str) else list(layer)
    found = dissect(
        network,
        layers,
        concepts,
        quantile=quantile,
        iou_threshold=iou_threshold,
        presence=presence,
        preprocessing=_own(network) if preprocessing == MODEL else preprocessing,
        controls=controls,
        examples=examples if report or table_rows else 0,
        batch_size=batch_size,
        num_workers=num_workers,
        device=_device(device),
        cache_dir=cache_dir,
        seed=seed,
    )
    metrics: dict[str, float] = {}
    for name in layers:
        own = [result for result in found.values() if result.layer == name]
        place = folder / name
        for result in own:
            save(result, place / result.control if result.control else place)
            metrics |= numbers(result, f"{name}/" if len(layers) > 1 else "")
        rich.print(detector_table(found[name]))
        if report:
            write_report(found[name], concepts, place / "report.html")
            log.info("open %s in a browser", place / "report.html")
        if table_rows:
            log_units(loggers, found[name], concepts, table_rows, f"dissect/{name}" if len(layers) > 1 else "dissect")
    comparison = compare(found, seed=seed)
    rich.print(comparison.table())
    (folder / "comparison.md").write_text(comparison.markdown(), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    for logger in loggers:
        logger.log_metrics(metrics)
        logger.save()
    return metrics


def numbers(dissection: Dissection, prefix: str = "") -> dict[str, float]:
    """A dissection's counts as metrics: `dissect/detectors/total`, …; of a control `dissect/control/<name>/…`."""
    middle = f"control/{dissection.control}/" if dissection.control else ""
    summary: Mapping[str, int] = dissection.summary()
    return {f"dissect/{prefix}{middle}detectors/{name}": float(value) for name, value in summary.items()}


def _own(network: nn.Module) -> Callable[[Tensor], Tensor]:
    prepare: Any = getattr(network, "preprocess", None)
    if not callable(prepare):
        raise InputError(
            "preprocessing=model: the network does not say how its images are prepared; give preprocessing=imagenet, "
            "reference or [[mean of r, g, b], [deviation of r, g, b]]"
        )
    return prepare


def _device(name: str) -> str:
    if name == AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
