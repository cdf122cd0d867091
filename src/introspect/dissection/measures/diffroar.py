"""DiffROAR: whether what a network's gradients rank high helps to tell the class more than what they rank low.

After Shah, Jain and Netrapalli (2021, arXiv 2102.12781). The values of every image are ranked by the magnitude of an
attribution; once only the highest are left and once only the lowest, all others being the mean value of the training
images, in training and test alike; fresh probes are trained on either. DiffROAR is the accuracy with the highest minus
that with the lowest: above 0 the attribution finds what predicts the class, 0 is chance, below 0 it is inverted.

How Han et al. applied it is not known to us: that the gradients are those of the distilled network and the probes fresh
ones is our reading. Ours are the defaults, which are small, and the mean over the levels as the one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from introspect.core.errors import InputError
from introspect.core.progress import track
from introspect.dissection.measures.attribution import gradients
from introspect.dissection.measures.base import Columns, canvas
from introspect.dissection.measures.images import Batch, ImageMeasure, ImageResult, check_logits
from introspect.dissection.measures.masking import SIDES, RankFile
from introspect.dissection.measures.probes import Probe, ProbeTraining, Task, predictive_power
from introspect.dissection.options import whole_number
from introspect.dissection.report.tables import TextTable
from introspect.vision.datasets.base import ImageSet

Ranking = Literal["loss", "logit", "loss_x_input", "logit_x_input", "random"]


@dataclass(frozen=True)
class DiffRoarResult(ImageResult):
    """Accuracies of probes. Shapes: k levels, 2 sides (top, bottom), r runs.

    Attributes:
        attribution: by which values were ranked.
        kept: fraction of the values that were left, of each level.
        accuracy: of each probe on the test images, float64 [k, 2, r].
        images: number of training and of test images.
        probe: name of the network that was trained.
        training: how it was trained.
        flat: fraction of the images whose gradient is 0 everywhere, as that of the loss is where a network is certain:
            they are ranked at random.
    """

    attribution: str
    kept: tuple[float, ...]
    accuracy: Tensor
    images: tuple[int, int]
    probe: str
    training: ProbeTraining
    flat: float = 0.0

    name = "diffroar"
    source = (
        "DiffROAR after Shah, Jain and Netrapalli (2021), arXiv 2102.12781. Ours: the defaults, and the mean over the "
        "levels."
    )

    @property
    def pairs(self) -> Tensor:
        """Every run with the top left minus every run with the bottom left, float64 [k, r * r]."""
        return (self.accuracy[:, 0, :, None] - self.accuracy[:, 1, None, :]).flatten(1)

    def settings(self) -> dict[str, Any]:
        """See `Result`."""
        return {
            **super().settings(),
            "attribution": self.attribution,
            "probe": self.probe,
            "kept": list(self.kept),
            "runs": self.accuracy.shape[2],
            "images": dict(zip(("train", "test"), self.images, strict=True)),
            "training": asdict(self.training),
        }

    def metrics(self) -> dict[str, float]:
        """`dissect/diffroar/difference`, the mean over levels, `flat`; per level `…/<kept>/difference`, ….

        With several runs also `…/<kept>/deviation`: the standard deviation over all pairs of runs (with n).
        """
        found = {f"{self.place}/difference": float(self.pairs.mean()), f"{self.place}/flat": self.flat}
        for kept, pairs, sides in zip(self.kept, self.pairs, self.accuracy.mean(2), strict=True):
            found[f"{self.place}/{kept:g}/difference"] = float(pairs.mean())
            if self.accuracy.shape[2] > 1:
                found[f"{self.place}/{kept:g}/deviation"] = float(pairs.std(correction=0))
            found |= {f"{self.place}/{kept:g}/{side}_accuracy": float(sides[i]) for i, side in enumerate(SIDES)}
        return found

    def tables(self) -> dict[str, Columns]:
        """`probes`: a row per probe."""
        runs = range(self.accuracy.shape[2])
        rows = [(kept, side, run) for kept in self.kept for side in SIDES for run in runs]
        kept, side, run = zip(*rows, strict=True)
        return {"probes": {"kept": kept, "left": side, "run": run, "accuracy": self.accuracy.flatten()}}

    def text_table(self) -> TextTable:
        """See `Result`."""
        rows = []
        for kept, pairs, sides in zip(self.kept, self.pairs, self.accuracy, strict=True):
            deviation = f" ± {float(pairs.std(correction=0)):.3f}" if pairs.numel() > 1 else ""
            rows.append(
                [f"{kept:.0%}", *(f"{float(side.mean()):.3f}" for side in sides), f"{pairs.mean():+.3f}{deviation}"]
            )
        caption = f"mean over levels: {float(self.pairs.mean()):+.3f}; above 0 what is ranked high tells the class"
        if self.flat:
            caption += f"; {self.flat:.1%} of the images have no gradient, and random ranks"
        title = f"DiffROAR: {self.network}, ranked by {self.attribution}, on {self.data}"
        return TextTable(title, ("values left", "top, accuracy", "bottom, accuracy", "DiffROAR"), rows, caption)

    def figures(self) -> dict[str, Any]:
        """`levels`: accuracy of both sides, and their difference, over the fraction that is left."""
        figure, axes = canvas(1, 2, 4.0, 3.0)
        for i, side in enumerate(SIDES):
            values = self.accuracy[:, i]
            spread = values.std(1, correction=0).numpy()
            axes[0][0].errorbar(self.kept, values.mean(1).numpy(), spread, marker="o", capsize=3, label=side)
        axes[0][0].set(title="accuracy of probes", xlabel="fraction of values left")
        axes[0][0].legend()
        spread = self.pairs.std(1, correction=0).numpy()
        axes[0][1].errorbar(self.kept, self.pairs.mean(1).numpy(), spread, marker="o", capsize=3)
        axes[0][1].axhline(0, color="grey", linewidth=0.8)
        axes[0][1].set(title="DiffROAR", xlabel="fraction of values left")
        return {"levels": figure}


@dataclass(frozen=True, kw_only=True, eq=False)
class DiffRoar(ImageMeasure):
    """Rank the values of images, hide the highest or the lowest, train probes on the rest, and compare them.

    Attributes:
        probe: builds the networks that are trained from scratch; their pixels are prepared as those of the network.
        attribution: gradient of the loss or of the true class's logit, either times the input too; or random numbers,
            for comparison.
        kept: levels: fractions of the values that are left.
        runs: probes of each level and side, with seeds of their own.
        training: how each probe is trained.
        train_limit: number of training images, drawn at random; None takes all.
        test_limit: number of test images, drawn at random; None takes all.
        cache_dir: folder of the temporary files, two or four bytes per value; None takes the system's.
    """

    probe: Probe
    attribution: Ranking = "loss"
    kept: Sequence[float] = (0.1, 0.5)
    runs: int = 2
    training: ProbeTraining = field(default_factory=ProbeTraining)
    train_limit: int | None = 2000
    test_limit: int | None = 500
    batch_size: int = 64
    cache_dir: str | Path | None = None

    def check(self) -> None:
        """See `Measure`."""
        super().check()
        _levels(self.kept)
        whole_number("runs", self.runs, 1)
        if self.attribution not in get_args(Ranking):
            raise InputError(f"attribution={self.attribution}: expected {', '.join(get_args(Ranking))}")

    def result(self) -> DiffRoarResult:
        """Rank, hide and train."""
        levels, seed = _levels(self.kept), self.seed
        train, test = self.reader("train", self.train_limit), self.reader("test", self.test_limit)
        with RankFile(self.cache_dir) as store:
            with self.pixel_network() as (model, device):
                attribute = _Ranker(model, self.data, self.attribution, device, seed)
                ranked, fill = store.fill(track(train, description="ranking train"), train.images, attribute, seed)
                tested, _ = store.fill(track(test, description="ranking test"), test.images, attribute, seed + 1)
            task = Task(self.data, ranked, tested, fill, self.prepare(), device)
            jobs = [(fraction, side, run) for fraction in levels for side in SIDES for run in range(self.runs)]
            found = [
                predictive_power(self.probe, task, fraction, side, self.training, seed + run)
                for fraction, side, run in track(jobs, description="probes")
            ]
        return DiffRoarResult(
            self.network.name,
            self.weights,
            self.data.name,
            self.attribution,
            levels,
            torch.tensor(found, dtype=torch.float64).view(len(levels), 2, self.runs),
            (len(ranked), len(tested)),
            self.probe.name,
            self.training,
            attribute.flat / (len(ranked) + len(tested)),
        )


def _levels(kept: Sequence[float]) -> tuple[float, ...]:
    levels = tuple(dict.fromkeys(float(fraction) for fraction in kept))
    if not levels or not all(0 < fraction <= 1 for fraction in levels):
        raise InputError(f"kept={list(kept)}: expected fractions of values above 0, up to 1, such as [0.1, 0.5]")
    return levels


class _Ranker:
    """Attribute a number to each value of a batch, and count the images where all are 0."""

    def __init__(self, model: nn.Module, data: ImageSet, attribution: Ranking, device: torch.device, seed: int) -> None:
        self._model, self._data, self._attribution, self._device = model, data, attribution, device
        self._generator = torch.Generator().manual_seed(seed)
        self.flat = 0

    def __call__(self, batch: Batch) -> Tensor:
        if self._attribution == "random":
            return torch.rand(batch.images.shape, generator=self._generator)
        of: Literal["loss", "logit"] = "loss" if self._attribution.startswith("loss") else "logit"
        pixels = batch.images.to(self._device).float() / 255
        found, logits = gradients(self._model, pixels, batch.classes.to(self._device), of)
        check_logits(logits, self._data)
        self.flat += int((found.flatten(1).abs().amax(1) == 0).sum())
        return found * pixels if self._attribution.endswith("_x_input") else found
