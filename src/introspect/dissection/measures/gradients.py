"""Maps of the loss's gradient, and numbers that summarise them.

Han et al. show such maps of a network from scratch and of a distilled one, as Tsipras et al. (2019, arXiv 1805.12152)
did of others; that those of the distilled one lie on the object is a visual judgement there. All numbers here are ours:
the mass in the object, the alignment with edges, and two indices of sparsity (Hurley and Rickard 2009, arXiv
0811.4706).

Shapes: b images of h x w pixels, e examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from introspect.core.progress import track
from introspect.dissection.measures.attribution import gradients
from introspect.dissection.measures.base import Columns, canvas
from introspect.dissection.measures.images import FirstImages, ImageMeasure, ImageResult, check_logits
from introspect.dissection.options import whole_number
from introspect.dissection.report.tables import TextTable

_LUMA = (0.299, 0.587, 0.114)
_MEANING = {
    "mass_in_object": "fraction of the map on the object",
    "object_area": "fraction of the pixels on the object",
    "concentration": "mass in the object / its area",
    "edge_alignment": "cosine with the edges of the image",
    "hoyer": "sparsity (Hoyer)",
    "gini": "sparsity (Gini)",
}


def magnitude(gradient: Tensor) -> Tensor:
    """Return the sum over channels of the magnitudes of a gradient [b, 3, h, w]: [b, h, w]."""
    return gradient.abs().sum(1)


def edges(images: Tensor) -> Tensor:
    """Return the slope of the brightness of images [b, 3, h, w] by Sobel filters, [b, h, w]; borders are repeated."""
    weight = torch.tensor(_LUMA, device=images.device)[:, None, None]
    grey = functional.pad((images.float() * weight).sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=images.device)
    slopes = functional.conv2d(grey, torch.stack([across, across.T])[:, None])
    return slopes.norm(dim=1)


def hoyer(maps: Tensor) -> Tensor:
    """Return (sqrt(p) - l1 / l2) / (sqrt(p) - 1) of p values: 0 where all are equal, 1 where one alone is not 0.

    Args:
        maps: not negative, [b, h, w], each with a value above 0.
    """
    flat = maps.flatten(1).double()
    root = flat.shape[1] ** 0.5
    return (root - flat.sum(1) / flat.norm(dim=1)) / (root - 1)


def gini(maps: Tensor) -> Tensor:
    """Return the Gini index: 0 where all p values are equal, 1 - 1 / p where one alone is not 0.

    Args:
        maps: not negative, [b, h, w], each with a value above 0.
    """
    flat = maps.flatten(1).double().sort(dim=1).values
    p = flat.shape[1]
    weights = (p - torch.arange(1, p + 1, dtype=torch.float64, device=flat.device) + 0.5) / p
    return 1 - 2 * (flat * weights).sum(1) / flat.sum(1)


def numbers(maps: Tensor, images: Tensor, truths: Tensor | None) -> dict[str, Tensor]:
    """Summarise maps in numbers.

    Args:
        maps: not negative, [b, h, w].
        images: [b, 3, h, w].
        truths: [b, h, w] or None.

    Returns:
        By name, float64 [b] each, nan where it is undefined, as all are for a map that is 0 everywhere. `hoyer` and
        `gini`: see there. `edge_alignment`: cosine, 0 to 1, of map and `edges`. With truths also `mass_in_object`:
        fraction of the map's sum where the truth is above 0; `object_area`: fraction of these pixels; `concentration`:
        the former divided by the latter, 1 for a map that ignores the object.
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
class GradientResult(ImageResult):
    """Means over images, and maps to show.

    Attributes:
        split: of the images.
        means: of each of `numbers`, over the images that have it.
        deviations: standard deviations of the same.
        counts: number of images that have it.
        images: number of all images.
        flat: number of images whose gradient is 0 everywhere.
        examples: pixels uint8 [e, 3, h, w], maps float32 [e, h, w] and, if there are truths, these, float32 [e, h, w].
    """

    split: str
    means: dict[str, float]
    deviations: dict[str, float]
    counts: dict[str, int]
    images: int
    flat: int
    examples: tuple[Tensor, ...]

    name = "gradients"
    source = (
        "Maps as Han et al. (2023, arXiv 2305.15734) show them after Tsipras et al. All numbers are ours, not the "
        "paper's."
    )

    def settings(self) -> dict[str, Any]:
        """See `Result`."""
        counts = {"images": self.images, "flat": self.flat, "counts": self.counts}
        return {**super().settings(), "split": self.split, **counts}

    def metrics(self) -> dict[str, float]:
        """`dissect/gradients/<number>` and `…/deviation/<number>` over images; `…/flat`: share of maps that are 0."""
        found = {f"{self.place}/{name}": value for name, value in self.means.items()}
        found |= {f"{self.place}/deviation/{name}": value for name, value in self.deviations.items()}
        return {**found, f"{self.place}/flat": self.flat / self.images}

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

    def text_table(self) -> TextTable:
        """See `Result`."""
        rows = [[_MEANING[n], f"{mean:.3f}", f"{self.deviations[n]:.3f}"] for n, mean in self.means.items()]
        caption = f"{self.flat} images have no gradient and are left out; these numbers are ours, not the paper's"
        title = f"gradient of the loss: {self.network}, {self.images} images of {self.data}"
        return TextTable(title, ("number", "mean", "sd over images"), rows, caption)

    def figures(self) -> dict[str, Any]:
        """`maps`: images, maps from white to red (each by its 99th percentile), and truths."""
        figure, axes = canvas(len(self.examples), len(self.examples[0]), 1.4, 1.4)
        for column, (image, heat, *truth) in enumerate(zip(*self.examples, strict=True)):
            axes[0][column].imshow(image.permute(1, 2, 0).numpy())
            top = max(float(heat.quantile(0.99)), torch.finfo(torch.float32).tiny)
            axes[1][column].imshow(heat.numpy(), vmin=0, vmax=top, cmap="Reds")
            for mask in truth:
                axes[2][column].imshow(mask.numpy(), vmin=0, vmax=1, cmap="gray")
        for axis in axes.flat:
            axis.set_axis_off()
        return {"maps": figure}


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientMaps(ImageMeasure):
    """Draw maps of the gradient of the cross-entropy by the pixels, and summarise them in numbers.

    With truths in the data, also the mass in the object is reported.

    Attributes:
        split: train, validation or test.
        limit: number of images, drawn at random; None takes all.
        examples: images in the figure.
    """

    split: str = "test"
    limit: int | None = 500
    examples: int = 8

    def check(self) -> None:
        """See `Measure`."""
        super().check()
        whole_number("examples", self.examples, 1)

    def result(self) -> GradientResult:
        """Compute the maps and their numbers."""
        reader = self.reader(self.split, self.limit, truths=self.data.has_truths)
        moments: dict[str, Tensor] = {}  # number, sum and sum of squares of each of `numbers`
        shown, count, flat = FirstImages(self.examples), 0, 0
        with self.pixel_network() as (model, device):
            for images, classes, truths in track(reader, description="gradients"):
                found, logits = gradients(model, images.to(device).float() / 255, classes.to(device))
                check_logits(logits, self.data)
                maps = magnitude(found).cpu()
                count += len(images)
                flat += int((maps.flatten(1).amax(1) == 0).sum())
                for name, values in numbers(maps, images, truths).items():
                    there = values[values.isfinite()]
                    powers = [len(there), float(there.sum()), float((there**2).sum())]
                    moments[name] = moments.get(name, 0) + torch.tensor(powers, dtype=torch.float64)
                shown.add(images, maps, *([] if truths is None else [truths]))
        present = {name: sums.tolist() for name, sums in moments.items() if sums[0] > 0}
        means = {name: total / n for name, (n, total, _) in present.items()}
        spread = {name: max(0.0, squares / n - means[name] ** 2) ** 0.5 for name, (n, _, squares) in present.items()}
        counts = {name: int(n) for name, (n, *_) in present.items()}
        subject = (self.network.name, self.weights, self.data.name, self.split)
        return GradientResult(*subject, means, spread, counts, count, flat, shown.tensors())
