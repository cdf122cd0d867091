"""The five-band score of a network's attributions, on images in which it is known what matters.

Han et al. report pixel accuracy, precision, recall and false positive rate; which methods and thresholds they took is
not known to us. Ours are: means over all images, the last class of cells (nothing to be found) included; the mean over
a sweep as its summary; and the truth of shapeworld, see `introspect.vision.datasets.shapeworld`.

Shapes: n images of h x w pixels, m methods, k settings of a sweep, c classes, e examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from introspect.core.progress import track
from introspect.dissection.measures.attribution import Attribution, check_methods
from introspect.dissection.measures.bands import HARD, Scores, Sweep, normalised, scores
from introspect.dissection.measures.bands import hard as hard_thresholds
from introspect.dissection.measures.base import Columns, canvas, library
from introspect.dissection.measures.images import FirstImages, ImageMeasure, ImageResult, check_logits
from introspect.dissection.options import whole_number
from introspect.dissection.report.tables import TextTable

SCORES = Scores._fields


@dataclass(frozen=True)
class FiveBandResult(ImageResult):
    """Scores of attributions, each the mean over images: see `bands.Scores`.

    Attributes:
        split: of the images.
        methods: of attribution.
        images: number of each class, int64 [c].
        right: number of each class that the network classifies correctly, int64 [c].
        hard: at the thresholds of the truth, by class, float64 [m, c, 4], nan where a class has no images.
        soft: at each setting of the sweep, float64 [m, k, 4].
        thresholds: of the sweep, float32 [k, 4].
        examples: pixels uint8 [e, 3, h, w], truths float32 [e, h, w], maps from -1 to 1, float32 [e, m, h, w].
    """

    split: str
    methods: tuple[str, ...]
    images: Tensor
    right: Tensor
    hard: Tensor
    soft: Tensor
    thresholds: Tensor
    examples: tuple[Tensor, ...]

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
        """See `Result`."""
        sweep = {"start": self.thresholds[0], "end": self.thresholds[-1]}
        return {
            **super().settings(),
            "split": self.split,
            "images": int(self.images.sum()),
            "methods": list(self.methods),
            "target": "the predicted class",
            "thresholds_of_the_truth": list(HARD),
            "sweep": {name: [round(t, 6) for t in values.tolist()] for name, values in sweep.items()}
            | {"settings": len(self.thresholds)},
        }

    def metrics(self) -> dict[str, float]:
        """`dissect/five_band/<method>/<score>`, `…/soft/<score>` (mean over the sweep), and the network's accuracy."""
        found: dict[str, float] = {}
        for method, hard, soft in zip(self.methods, self.total, self.soft.mean(1), strict=True):
            found |= {f"{self.place}/{method}/{score}": float(hard[i]) for i, score in enumerate(SCORES)}
            found |= {f"{self.place}/{method}/soft/{score}": float(soft[i]) for i, score in enumerate(SCORES)}
        return {**found, f"{self.place}/network_accuracy": float(self.right.sum() / self.images.sum())}

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

    def text_table(self) -> TextTable:
        """See `Result`."""
        rows = [
            [method, *(f"{float(hard[i]):.3f} / {float(soft[i]):.3f}" for i in range(len(SCORES)))]
            for method, hard, soft in zip(self.methods, self.total, self.soft.mean(1), strict=True)
        ]
        right = float(self.right.sum() / self.images.sum())
        caption = f"five-band / mean of the soft sweep; accuracy of the network: {right:.1%}"
        title = f"five-band score: {self.network}, {int(self.images.sum())} images of {self.data}"
        return TextTable(title, ("attribution", *SCORES), rows, caption)

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
        figure, axes = canvas(len(self.examples[0]), 2 + len(self.methods), 1.3, 1.3)
        for line, image, truth, maps in zip(axes, *self.examples, strict=True):
            line[0].imshow(image.permute(1, 2, 0).numpy())
            line[1].imshow(truth.numpy(), vmin=0, vmax=1, cmap="gray")
            for axis, heat in zip(line[2:], maps, strict=True):
                axis.imshow(heat.numpy(), vmin=-1, vmax=1, cmap="bwr")
        for axis, title in zip(axes[0], ("image", "truth", *self.methods), strict=True):
            axis.set_title(title, fontsize=7)
        for axis in axes.flat:
            axis.set_axis_off()
        return figure


@dataclass(frozen=True, kw_only=True, eq=False)
class FiveBand(ImageMeasure):
    """Score attributions for the class that a network predicts, on images with the truth of what matters.

    Attributes:
        methods: of attribution, see `attribution.METHODS`.
        thresholds: where the soft score begins, see `bands.Sweep`.
        delta: by which the thresholds move towards 0 with each step.
        steps: number of settings of the thresholds.
        layer: the convolution of guided Grad-CAM; None takes the last one.
        integration_steps: of integrated gradients.
        split: train, validation or test.
        limit: number of images, drawn at random; None takes all.
        examples: images in the figure.
    """

    methods: str | Sequence[str] = ("saliency", "input_x_gradient", "integrated_gradients")
    thresholds: Sequence[float] = (-0.5, -0.3, 0.3, 0.5)
    delta: float = 0.005
    steps: int = 56
    layer: str | None = None
    integration_steps: int = 50
    split: str = "test"
    limit: int | None = 200
    examples: int = 8

    def check(self) -> None:
        """See `Measure`."""
        super().check()
        whole_number("examples", self.examples, 1)
        Sweep(self.thresholds, self.delta, self.steps)
        check_methods(self.methods)
        library("captum.attr", "attributions are made by Captum")
        self.data.check_truths()

    def result(self) -> FiveBandResult:
        """Attribute and score."""
        methods = check_methods(self.methods)
        reader = self.reader(self.split, self.limit, truths=True)
        settings = torch.cat([hard_thresholds(), Sweep(self.thresholds, self.delta, self.steps).settings()])
        images_of, right = (torch.zeros(self.data.classes, dtype=torch.int64) for _ in range(2))
        hard = torch.zeros(len(methods), self.data.classes, len(SCORES), dtype=torch.float64)
        soft = torch.zeros(len(methods), len(settings) - 1, len(SCORES), dtype=torch.float64)
        shown = FirstImages(self.examples)
        with self.pixel_network() as (model, device):
            attribute = Attribution(model, methods, layer=self.layer, steps=self.integration_steps, seed=self.seed)
            for images, classes, truths in track(reader, description="attributions"):
                assert truths is not None
                pixels = images.to(device).float() / 255
                with torch.no_grad():
                    predicted = check_logits(model(pixels), self.data).argmax(1)
                maps = torch.stack([normalised(attribute(method, pixels, predicted)).cpu() for method in methods])
                images_of += torch.bincount(classes, minlength=self.data.classes)
                right += torch.bincount(classes[classes == predicted.cpu()], minlength=self.data.classes)
                for place, heat in enumerate(maps):
                    found = torch.stack(scores(heat[:, None], truths, settings), 2)  # [b, 1 + k, 4]
                    hard[place].index_add_(0, classes, found[:, 0])
                    soft[place] += found[:, 1:].sum(0)
                shown.add(images, truths, maps.transpose(0, 1))
        return FiveBandResult(
            self.network.name,
            self.weights,
            self.data.name,
            self.split,
            methods,
            images_of,
            right,
            hard / images_of[:, None],  # nan where a class has no images
            soft / images_of.sum(),
            settings[1:],
            shown.tensors(),
        )
