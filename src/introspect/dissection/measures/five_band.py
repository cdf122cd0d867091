"""The five-band score of a network's attributions, on images in which it is known what matters.

Han et al. report pixel accuracy, precision, recall and false positive rate; which methods and thresholds they took is
not known to us. Ours are: means over all images, the last class of cells (nothing to be found) included; the mean over
a sweep as its summary; and the truth of shapeworld, see `introspect.vision.datasets.shapeworld`.

Shapes: n images of h x w pixels, m methods, k settings of a sweep, c classes, e examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from introspect.core.inference import AUTO, chosen_device
from introspect.core.progress import track
from introspect.dissection.measure import MODEL, own_preprocessing
from introspect.dissection.measures.attribution import Attribution, check_methods
from introspect.dissection.measures.bands import HARD, Scores, Sweep, normalised, scores
from introspect.dissection.measures.images import LabelledImages, PixelNetwork, Reader, check_logits, measured
from introspect.dissection.measures.output import Columns, Shown, canvas, check_figure, publish
from introspect.dissection.rules import whole_number
from introspect.vision.networks import origin
from introspect.vision.preprocessing import preprocessing as preprocessing_of

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

SCORES = Scores._fields


@dataclass(frozen=True)
class Examples:
    """Images to show: pixels uint8 [e, 3, h, w], truths float32 [e, h, w], maps from -1 to 1, float32 [m, e, h, w]."""

    images: Tensor
    truths: Tensor
    maps: Tensor


@dataclass(frozen=True)
class FiveBand:
    """Scores of attributions, each the mean over images: see `bands.Scores`.

    network, checkpoint, data, split: what was measured, on what. methods: of attribution. images: of each class, int64
    [c]. right: of them, those whose class the network finds. hard: at the thresholds of the truth, by class, float64
    [m, c, 4], nan where a class has no images. soft: at each setting of the sweep, float64 [m, k, 4]. thresholds: of
    the sweep, float32 [k, 4]. examples: to show.
    """

    network: str
    checkpoint: str
    data: str
    split: str
    methods: tuple[str, ...]
    images: Tensor
    right: Tensor
    hard: Tensor
    soft: Tensor
    thresholds: Tensor
    examples: Examples

    name = "five_band"
    source = (
        "Five-band score and its soft form after Tjoa and Guan. Ours: means over all images and over the sweep; the "
        "truth of data=shapeworld."
    )

    @property
    def total(self) -> Tensor:
        """Scores at the thresholds of the truth over all images, float64 [m, 4]."""
        weights = self.images / self.images.sum()
        return (self.hard.nan_to_num() * weights[:, None]).sum(1)

    def settings(self) -> dict[str, Any]:
        """See `Measured`."""
        sweep = {"start": self.thresholds[0], "end": self.thresholds[-1]}
        return {
            **{name: getattr(self, name) for name in ("network", "checkpoint", "data", "split")},
            "images": int(self.images.sum()),
            "methods": list(self.methods),
            "target": "the predicted class",
            "thresholds_of_the_truth": list(HARD),
            "sweep": {name: [round(t, 6) for t in values.tolist()] for name, values in sweep.items()}
            | {"settings": len(self.thresholds)},
        }

    def metrics(self) -> dict[str, float]:
        """`dissect/five_band/<method>/<score>`, `…/soft/<score>` (mean over the sweep), and the network's accuracy."""
        place = f"dissect/{self.name}"
        found: dict[str, float] = {}
        for method, hard, soft in zip(self.methods, self.total, self.soft.mean(1), strict=True):
            found |= {f"{place}/{method}/{score}": float(hard[i]) for i, score in enumerate(SCORES)}
            found |= {f"{place}/{method}/soft/{score}": float(soft[i]) for i, score in enumerate(SCORES)}
        return {**found, f"{place}/network_accuracy": float(self.right.sum() / self.images.sum())}

    def tables(self) -> dict[str, Columns]:
        """`sweep`: a row per method and setting; `classes`: a row per method and class."""
        m, k, c = len(self.methods), len(self.thresholds), len(self.images)
        edges = {f"threshold_{i + 1}": self.thresholds[:, i].repeat(m) for i in range(4)}
        return {
            "sweep": {
                "method": [method for method in self.methods for _ in range(k)],
                "step": torch.arange(k).repeat(m),
                **edges,
                **{score: self.soft[..., i].flatten() for i, score in enumerate(SCORES)},
            },
            "classes": {
                "method": [method for method in self.methods for _ in range(c)],
                "class": torch.arange(c).repeat(m),
                "images": self.images.repeat(m),
                "right": self.right.repeat(m),
                **{score: self.hard[..., i].flatten() for i, score in enumerate(SCORES)},
            },
        }

    def shown(self) -> Shown:
        """See `Measured`."""
        rows = [
            [method, *(f"{float(hard[i]):.3f} / {float(soft[i]):.3f}" for i in range(len(SCORES)))]
            for method, hard, soft in zip(self.methods, self.total, self.soft.mean(1), strict=True)
        ]
        right = float(self.right.sum() / self.images.sum())
        caption = f"five-band / mean of the soft sweep; the network is right on {right:.1%} of the images"
        title = f"five-band score: {self.network}, {int(self.images.sum())} images of {self.data}"
        return Shown(title, ("attribution", *SCORES), rows, caption)

    def figures(self) -> dict[str, Any]:
        """`sweep`: each score over the sweep; `examples`: images, truths and maps."""
        figure, axes = canvas(1, len(SCORES), 3.2, 3.0)
        for i, (score, axis) in enumerate(zip(SCORES, axes[0], strict=True)):
            for method, values in zip(self.methods, self.soft[..., i], strict=True):
                axis.plot(self.thresholds[:, 2].numpy(), values.numpy(), label=method)
            axis.set(title=score, xlabel="inner threshold")
        axes[0][0].legend(fontsize="x-small")
        return {"sweep": figure, "examples": self._grid()}

    def _grid(self) -> Any:
        shown = self.examples
        figure, axes = canvas(len(shown.images), 2 + len(self.methods), 1.3, 1.3)
        for row, line in enumerate(axes):
            line[0].imshow(shown.images[row].permute(1, 2, 0).numpy())
            line[1].imshow(shown.truths[row].numpy(), vmin=0, vmax=1, cmap="gray")
            for axis, heat in zip(line[2:], shown.maps[:, row], strict=True):
                axis.imshow(heat.numpy(), vmin=-1, vmax=1, cmap="bwr")
        for axis, title in zip(axes[0], ("image", "truth", *self.methods), strict=True):
            axis.set_title(title, fontsize=7)
        for axis in axes.flat:
            axis.set_axis_off()
        return figure


def five_band(
    *,
    network: nn.Module,
    data: LabelledImages,
    folder: str | Path,
    methods: str | Sequence[str] = ("saliency", "input_x_gradient", "integrated_gradients"),
    thresholds: Sequence[float] = (-0.5, -0.3, 0.3, 0.5),
    delta: float = 0.005,
    steps: int = 56,
    layer: str | None = None,
    integration_steps: int = 50,
    split: str = "test",
    limit: int | None = 200,
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
    """Attribute, score, and report.

    Args:
        network: whose attributions are scored, for the class that it predicts.
        data: images with the truth of what matters in them.
        folder: where the files go, see `output.publish`.
        methods: of attribution, see `attribution.METHODS`.
        thresholds, delta, steps: of the soft score, see `bands.Sweep`.
        layer: the convolution that guided Grad-CAM looks at; None takes the last one.
        integration_steps: of integrated gradients.
        split, limit, batch_size, num_workers, seed: which images, see `images.Reader`; the seed is also that of
            attributions with random baselines.
        checkpoint: whence the weights are, for the reader of the results.
        preprocessing, device: see `measure.measure`.
        examples: images in the figure.
        figure: whether figures are drawn.
        loggers: of the run; they get the table and the figures. The numbers are for the caller to log.

    Returns:
        See `FiveBand.metrics`.

    Raises:
        InputError: an option is impossible, the data has no truths or other classes than the network, or a library or
            what a method needs of the network is missing.
    """
    check_figure(figure)
    whole_number("examples", examples, 1)
    sweep, methods = Sweep(thresholds, delta, steps), check_methods(methods)
    reader = Reader(
        data, split=split, limit=limit, batch_size=batch_size, num_workers=num_workers, seed=seed, truths=True
    )
    prepare = own_preprocessing(network) if preprocessing == MODEL else preprocessing_of(preprocessing)
    sums = _Sums(methods, data.classes, sweep.settings(), examples)
    with measured(network, chosen_device(device)) as place:
        model = PixelNetwork(network, prepare)
        attribute = Attribution(model, methods, layer=layer, steps=integration_steps, seed=seed)
        for images, classes, truths in track(reader, description="attributions"):
            assert truths is not None
            pixels = images.to(place).float() / 255
            with torch.no_grad():
                predicted = check_logits(model(pixels), data).argmax(1)
            maps = torch.stack([normalised(attribute(method, pixels, predicted)).cpu() for method in methods])
            sums.add(images, classes, predicted.cpu(), truths, maps)
    name, source = origin(network)
    result = sums.result(name, checkpoint or source, data.name, split)
    return publish(result, folder, loggers, figure=figure)


class _Sums:
    """Scores of batches, added up; their size does not depend on the number of images."""

    def __init__(self, methods: Sequence[str], classes: int, sweep: Tensor, examples: int) -> None:
        self.methods, self.sweep, self.wanted = tuple(methods), sweep, examples
        # The first setting is that of the truth.
        self.settings = torch.cat([torch.tensor([HARD]), sweep])
        self.hard = torch.zeros(len(methods), classes, len(SCORES), dtype=torch.float64)
        self.soft = torch.zeros(len(methods), len(sweep), len(SCORES), dtype=torch.float64)
        self.images, self.right = (torch.zeros(classes, dtype=torch.int64) for _ in range(2))
        self.shown: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, images: Tensor, classes: Tensor, predicted: Tensor, truths: Tensor, maps: Tensor) -> None:
        """Take in a batch: `maps` are [m, b, h, w], from -1 to 1."""
        self.images += torch.bincount(classes, minlength=len(self.images))
        self.right += torch.bincount(classes[classes == predicted], minlength=len(self.images))
        for place, heat in enumerate(maps):
            found = torch.stack(scores(heat[:, None], truths, self.settings), 2)  # [b, 1 + k, 4]
            self.hard[place].index_add_(0, classes, found[:, 0])
            self.soft[place] += found[:, 1:].sum(0)
        missing = self.wanted - sum(len(part) for part, *_ in self.shown)
        if missing > 0:
            self.shown.append((images[:missing].clone(), truths[:missing].clone(), maps[:, :missing].clone()))

    def result(self, network: str, checkpoint: str, data: str, split: str) -> FiveBand:
        """The means."""
        images, truths, maps = zip(*self.shown, strict=True)
        examples = Examples(torch.cat(images), torch.cat(truths), torch.cat(maps, 1))
        hard = self.hard / self.images[:, None]  # nan: of nothing
        soft = self.soft / self.images.sum()
        found = (self.images, self.right, hard, soft, self.sweep, examples)
        return FiveBand(network, checkpoint, data, split, self.methods, *found)
