"""Maps of the loss's gradient, and numbers of what is to be seen in them.

Han et al. show such maps of a network from scratch and of a distilled one, as Tsipras et al. (2019, arXiv 1805.12152)
did of others; that those of the distilled one lie on the object is a judgement of the eye there. All numbers here are
ours: the mass in the object, the alignment with edges, and two measures of sparsity (Hurley and Rickard 2009, arXiv
0811.4706).

Shapes: b images of h x w pixels, e examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from introspect.core.inference import AUTO, chosen_device
from introspect.core.progress import track
from introspect.dissection.measure import MODEL, own_preprocessing
from introspect.dissection.measures.attribution import gradients
from introspect.dissection.measures.images import (
    LabelledImages,
    PixelNetwork,
    Reader,
    check_logits,
    has_truths,
    measured,
)
from introspect.dissection.measures.output import Columns, Shown, canvas, check_figure, publish
from introspect.dissection.rules import whole_number
from introspect.vision.networks import origin
from introspect.vision.preprocessing import preprocessing as preprocessing_of

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

_LUMA = (0.299, 0.587, 0.114)
_MEANING = {
    "mass_in_object": "share of the map on the object",
    "object_area": "share of the pixels on the object",
    "concentration": "mass in the object by its area",
    "edge_alignment": "cosine with the edges of the image",
    "hoyer": "sparsity (Hoyer)",
    "gini": "sparsity (Gini)",
}


def magnitude(gradient: Tensor) -> Tensor:
    """The sum over channels of the magnitudes of a gradient [b, 3, h, w]: [b, h, w]."""
    return gradient.abs().sum(1)


def edges(images: Tensor) -> Tensor:
    """How steep the brightness of images [b, 3, h, w] is, by Sobel's filters, [b, h, w]; borders are repeated."""
    weight = torch.tensor(_LUMA, device=images.device)[:, None, None]
    grey = functional.pad((images.float() * weight).sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=images.device)
    slopes = functional.conv2d(grey, torch.stack([across, across.T])[:, None])
    return slopes.norm(dim=1)


def hoyer(maps: Tensor) -> Tensor:
    """(sqrt(p) - l1 / l2) / (sqrt(p) - 1) of p values: 0 where all are equal, 1 where one alone is not 0.

    Args:
        maps: not negative, [b, h, w], each with a value above 0.
    """
    flat = maps.flatten(1).double()
    root = flat.shape[1] ** 0.5
    return (root - flat.sum(1) / flat.norm(dim=1)) / (root - 1)


def gini(maps: Tensor) -> Tensor:
    """The Gini index: 0 where all p values are equal, 1 - 1 / p where one alone is not 0.

    Args:
        maps: not negative, [b, h, w], each with a value above 0.
    """
    flat = maps.flatten(1).double().sort(dim=1).values
    p = flat.shape[1]
    weights = (p - torch.arange(1, p + 1, dtype=torch.float64, device=flat.device) + 0.5) / p
    return 1 - 2 * (flat * weights).sum(1) / flat.sum(1)


def numbers(maps: Tensor, images: Tensor, truths: Tensor | None) -> dict[str, Tensor]:
    """What is to be seen in maps, by name, float64 [b] each, nan where it is undefined.

    `hoyer`, `gini`: see there. `edge_alignment`: cosine, 0 to 1, of map and `edges`. With truths also `mass_in_object`:
    share of the map's sum where the truth is above 0; `object_area`: share of these pixels; `concentration`: the former
    by the latter, 1 for a map that does not know the object. A map that is 0 everywhere has none of these.

    Args:
        maps: not negative, [b, h, w].
        images: [b, 3, h, w].
        truths: [b, h, w] or None.
    """
    total = maps.flatten(1).double().sum(1)
    seen = total > 0
    flat, steep = maps.flatten(1).double(), edges(images).flatten(1).double()
    found = {
        "edge_alignment": (flat * steep).sum(1) / (flat.norm(dim=1) * steep.norm(dim=1)),
        "hoyer": hoyer(maps),
        "gini": gini(maps),
    }
    if truths is not None:
        inside = (truths > 0).flatten(1).double()
        area = inside.mean(1)
        mass = (flat * inside).sum(1) / total
        mass = torch.where(area > 0, mass, torch.nan)
        found |= {"mass_in_object": mass, "object_area": area, "concentration": mass / area}
    return {name: torch.where(seen, values, torch.nan) for name, values in found.items()}


@dataclass(frozen=True)
class GradientMaps:
    """Means over images, and maps to show.

    network, checkpoint, data, split: what was measured, on what. means, deviations: of each of `numbers`, over the
    images that have it. counts: how many these are. images: of all. flat: images whose gradient is 0 everywhere.
    pixels, truths, maps: of examples, uint8 [e, 3, h, w], float32 [e, h, w] (None without truths) and [e, h, w].
    """

    network: str
    checkpoint: str
    data: str
    split: str
    means: dict[str, float]
    deviations: dict[str, float]
    counts: dict[str, int]
    images: int
    flat: int
    pixels: Tensor
    truths: Tensor | None
    maps: Tensor

    name = "gradients"
    source = (
        "Maps as Han et al. (2023, arXiv 2305.15734) show them after Tsipras et al. All numbers are ours, not the "
        "paper's."
    )

    def settings(self) -> dict[str, Any]:
        """See `Measured`."""
        names = ("network", "checkpoint", "data", "split", "images", "flat", "counts")
        return {name: getattr(self, name) for name in names}

    def metrics(self) -> dict[str, float]:
        """`dissect/gradients/<number>` and `…/deviation/<number>` over images; `…/flat`: share of maps that are 0."""
        place = f"dissect/{self.name}"
        found = {f"{place}/{name}": value for name, value in self.means.items()}
        found |= {f"{place}/deviation/{name}": value for name, value in self.deviations.items()}
        return {**found, f"{place}/flat": self.flat / self.images}

    def tables(self) -> dict[str, Columns]:
        """`numbers`: a row per number."""
        names = list(self.means)
        return {
            "numbers": {
                "number": names,
                "mean": [self.means[name] for name in names],
                "deviation": [self.deviations[name] for name in names],
                "images": [self.counts[name] for name in names],
            }
        }

    def shown(self) -> Shown:
        """See `Measured`."""
        rows = [[_MEANING[n], f"{mean:.3f}", f"{self.deviations[n]:.3f}"] for n, mean in self.means.items()]
        caption = f"{self.flat} images have no gradient and are left out; these numbers are ours, not the paper's"
        title = f"gradient of the loss: {self.network}, {self.images} images of {self.data}"
        return Shown(title, ("number", "mean", "sd over images"), rows, caption)

    def figures(self) -> dict[str, Any]:
        """`maps`: images, maps from white to red (each by its 99th percentile), and truths."""
        lines = 2 if self.truths is None else 3
        figure, axes = canvas(lines, len(self.maps), 1.4, 1.4)
        for column, heat in enumerate(self.maps):
            axes[0][column].imshow(self.pixels[column].permute(1, 2, 0).numpy())
            top = max(float(heat.quantile(0.99)), torch.finfo(torch.float32).tiny)
            axes[1][column].imshow(heat.numpy(), vmin=0, vmax=top, cmap="Reds")
            if self.truths is not None:
                axes[2][column].imshow(self.truths[column].numpy(), vmin=0, vmax=1, cmap="gray")
        for axis in axes.flat:
            axis.set_axis_off()
        return {"maps": figure}


def gradient_maps(
    *,
    network: nn.Module,
    data: LabelledImages,
    folder: str | Path,
    split: str = "test",
    limit: int | None = 500,
    checkpoint: str | None = None,
    preprocessing: str | Callable[[Tensor], Tensor] | Sequence[Sequence[float]] = MODEL,
    examples: int = 8,
    figure: bool = True,
    batch_size: int = 32,
    num_workers: int = 0,
    device: str = AUTO,
    seed: int = 0,
    loggers: Iterable[Logger] = (),
) -> dict[str, float]:
    """Draw maps of the gradient of the cross-entropy by the pixels, and report what is to be seen in them.

    Args:
        network: whose loss it is.
        data: images with classes; with truths, also the mass in the object is reported.
        folder: where the files go, see `output.publish`.
        split, limit, batch_size, num_workers, seed: which images, see `images.Reader`.
        checkpoint: whence the weights are, for the reader of the results.
        preprocessing, device: see `measure.measure`.
        examples: images in the figure.
        figure: whether it is drawn.
        loggers: of the run; they get the table and the figure. The numbers are for the caller to log.

    Returns:
        See `GradientMaps.metrics`.

    Raises:
        InputError: an option is impossible, or the data has other classes than the network.
    """
    check_figure(figure)
    whole_number("examples", examples, 1)
    options = {"limit": limit, "batch_size": batch_size, "num_workers": num_workers, "seed": seed}
    reader = Reader(data, split=split, truths=has_truths(data), **options)  # type: ignore[arg-type]
    prepare = own_preprocessing(network) if preprocessing == MODEL else preprocessing_of(preprocessing)
    sums = _Sums(examples)
    with measured(network, chosen_device(device)) as place:
        model = PixelNetwork(network, prepare)
        for images, classes, truths in track(reader, description="gradients"):
            found, logits = gradients(model, images.to(place).float() / 255, classes.to(place))
            check_logits(logits, data)
            sums.add(images, magnitude(found).cpu(), truths)
    name, source = origin(network)
    return publish(sums.result(name, checkpoint or source, data.name, split), folder, loggers, figure=figure)


class _Sums:
    """Numbers of batches, added up; their size does not depend on the number of images."""

    def __init__(self, examples: int) -> None:
        self.wanted, self.images, self.flat = examples, 0, 0
        self.sums: dict[str, Tensor] = {}
        self.shown: list[tuple[Tensor, Tensor | None, Tensor]] = []

    def add(self, images: Tensor, maps: Tensor, truths: Tensor | None) -> None:
        """Take in a batch."""
        self.images += len(images)
        self.flat += int((maps.flatten(1).amax(1) == 0).sum())
        for name, values in numbers(maps, images, truths).items():
            there = values[values.isfinite()]
            moments = torch.tensor([len(there), float(there.sum()), float((there**2).sum())], dtype=torch.float64)
            self.sums[name] = self.sums.get(name, 0) + moments
        missing = self.wanted - sum(len(part) for part, *_ in self.shown)
        if missing > 0:
            kept = None if truths is None else truths[:missing].clone()
            self.shown.append((images[:missing].clone(), kept, maps[:missing].clone()))

    def result(self, network: str, checkpoint: str, data: str, split: str) -> GradientMaps:
        """The means; numbers that no image has are left out."""
        there = {name: sums for name, sums in self.sums.items() if sums[0] > 0}
        means = {name: float(sums[1] / sums[0]) for name, sums in there.items()}
        spread = {n: max(0.0, float(sums[2] / sums[0]) - means[n] ** 2) ** 0.5 for n, sums in there.items()}
        counts = {name: int(sums[0]) for name, sums in there.items()}
        pixels, truths, maps = zip(*self.shown, strict=True)
        known = None if truths[0] is None else torch.cat([truth for truth in truths if truth is not None])
        found = (means, spread, counts, self.images, self.flat, torch.cat(pixels), known, torch.cat(maps))
        return GradientMaps(network, checkpoint, data, split, *found)
