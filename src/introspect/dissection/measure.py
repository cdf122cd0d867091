"""What `dissect.py` does: any network and any layers of it, with any concepts, beside controls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from introspect.core.errors import InputError
from introspect.core.files import write_json, write_text
from introspect.core.inference import AUTO, chosen_device
from introspect.dissection.comparison import compare_dissections
from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.engine import dissect
from introspect.dissection.files import save
from introspect.dissection.report import write_report
from introspect.dissection.report.tables import detector_table, log_units
from introspect.dissection.result import PLAIN, Dissection
from introspect.dissection.rules import IOU_THRESHOLD, QUANTILE, Rules, Work, as_controls, as_names, whole_number
from introspect.dissection.tally import Presence
from introspect.vision.hooks import find_layers
from introspect.vision.networks import origin

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

MODEL = "model"


def measure(
    *,
    network: nn.Module,
    layer: str | Sequence[str],
    concepts: ConceptDataset,
    folder: str | Path,
    checkpoint: str | None = None,
    quantile: float = QUANTILE,
    iou_threshold: float = IOU_THRESHOLD,
    presence: Presence = "lite",
    preprocessing: str | Callable[[Tensor], Tensor] | Sequence[Sequence[float]] = MODEL,
    controls: str | Sequence[str] | None = ("rotation", "labels"),
    rotations: int = 3,
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
        checkpoint: whence the weights are, for the reader of the results.
        quantile, iou_threshold, presence: see `rules.Rules`.
        preprocessing: of the pixels: `model` asks the network (its attribute `preprocess`); else as in
            `preprocessing.preprocessing`.
        controls, rotations: what each layer is compared with, see `engine.dissect`.
        examples: images per unit in the report.
        report: write `report.html` beside the files of each layer.
        table_rows: units in the W&B table at most; 0 logs none.
        batch_size, num_workers, cache_dir: see `engine.dissect`.
        device: `auto` takes a CUDA GPU where there is one.
        seed: of the controls.
        loggers: of the run; they get tables. The numbers are for the caller to log.

    Returns:
        `dissect/detectors/total`, …: the numbers of `Dissection.summary`; of each control under
        `dissect/control/rotation/detectors/…`. With several layers `dissect/<layer>/…`.

    Raises:
        InputError: something that was named is not there, or can not be dissected.
    """
    check(network, layer, table_rows=table_rows, device=device, seed=seed)
    found = dissect(
        network,
        layer,
        concepts,
        quantile=quantile,
        iou_threshold=iou_threshold,
        presence=presence,
        preprocessing=own_preprocessing(network) if preprocessing == MODEL else preprocessing,
        controls=controls or (),
        rotations=rotations,
        examples=examples if report or table_rows else 0,
        batch_size=batch_size,
        num_workers=num_workers,
        device=chosen_device(device),
        cache_dir=cache_dir,
        seed=seed,
    )
    name, source = origin(network)
    found = {key: replace(each, network=name, checkpoint=checkpoint or source) for key, each in found.items()}
    metrics = _write(found, concepts, Path(folder), report, seed)
    for each in found.values():
        if table_rows and not each.control:
            prefix = f"dissect/{each.layer}" if len(as_names(layer)) > 1 else "dissect"
            log_units(loggers, each, concepts, table_rows, prefix)
    return metrics


def check(network: nn.Module, layer: str | Sequence[str], **options: Any) -> None:
    """Refuse what `measure` would refuse before it reads an image; for those who call it after hours of work.

    Args:
        network, layer: what is dissected, and where.
        options: of `measure`; those that say nothing about the counting are passed over.

    Raises:
        InputError: there is no such layer, or an option is impossible.
    """
    find_layers(network, as_names(layer))
    Rules(**_known(Rules, options))
    if "controls" in options:
        options["controls"] = as_controls(options["controls"])
    Work(**_known(Work, options))
    whole_number("table_rows", options.get("table_rows", 0), 0)
    chosen_device(options.get("device", AUTO))


def _known(kind: type[Rules] | type[Work], options: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: options[field.name] for field in fields(kind) if field.name in options}


def _write(
    found: Mapping[str, Dissection], concepts: ConceptDataset, folder: Path, report: bool, seed: int
) -> dict[str, float]:
    """Write all files and show the tables; returns the metrics."""
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
        metrics |= numbers(group, f"{layer}/" if len(layers) > 1 else "")
    comparison = compare_dissections(
        {layer + (f":{control}" if control else ""): g for (layer, control), g in groups.items()}, seed=seed
    )
    rich.print(comparison.table())
    write_text(folder / "comparison.md", comparison.markdown())
    write_json(folder / "metrics.json", metrics)
    return metrics


def numbers(dissections: Dissection | Sequence[Dissection], prefix: str = "") -> dict[str, float]:
    """Counts as metrics: `dissect/detectors/total`, …; of a control `dissect/control/<name>/detectors/total`, ….

    Of several dissections of a kind, such as random rotations, these are the means; their standard deviations (with
    n - 1) are `dissect/control/<name>/deviation/total`, ….
    """
    group = [dissections] if isinstance(dissections, Dissection) else list(dissections)
    control = group[0].control
    place = f"dissect/{prefix}{f'control/{control}/' if control != PLAIN else ''}"
    summaries = [each.summary() for each in group]
    metrics = {f"{place}detectors/{name}": fmean(s[name] for s in summaries) for name in summaries[0]}
    if len(group) > 1:
        metrics |= {f"{place}deviation/{name}": stdev(s[name] for s in summaries) for name in summaries[0]}
    return metrics


def own_preprocessing(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """How a network prepares its images: its attribute `preprocess`.

    Raises:
        InputError: it has none.
    """
    prepare: Any = getattr(network, "preprocess", None)
    if not callable(prepare):
        raise InputError(
            "preprocessing=model: the network does not say how its images are prepared; give preprocessing=imagenet, "
            "reference or [[mean of r, g, b], [deviation of r, g, b]]"
        )
    return prepare
