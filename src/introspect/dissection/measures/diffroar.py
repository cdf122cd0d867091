"""DiffROAR: whether what a network's gradients rank high helps to tell the class more than what they rank low.

After Shah, Jain and Netrapalli (2021, arXiv 2102.12781). The values of every image are ranked by the magnitude of an
attribution; once only the highest are left and once only the lowest, all others being the mean value of the training
images, in training and test alike; fresh probes are trained on either. DiffROAR is the accuracy with the highest minus
that with the lowest: above 0 the attribution finds what predicts the class, 0 is chance, below 0 it is inverted.

How Han et al. applied it is not known to us: that the gradients are those of the distilled network and the probes fresh
ones is our reading. Ours are the defaults, which are small, and the mean over the levels as the one number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from introspect.core.errors import InputError
from introspect.core.inference import AUTO, chosen_device
from introspect.core.progress import track
from introspect.dissection.measure import MODEL, own_preprocessing
from introspect.dissection.measures.attribution import gradients
from introspect.dissection.measures.images import Batch, LabelledImages, PixelNetwork, Reader, check_logits, measured
from introspect.dissection.measures.masking import SIDES, RankFile
from introspect.dissection.measures.output import Columns, Shown, canvas, check_figure, publish
from introspect.dissection.measures.probes import ProbeTraining, Task, predictive_power
from introspect.dissection.rules import whole_number
from introspect.vision.networks import Buildable, origin
from introspect.vision.preprocessing import preprocessing as preprocessing_of

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

Ranking = Literal["loss", "logit", "loss_x_input", "logit_x_input", "random"]


@dataclass(frozen=True)
class DiffRoar:
    """Accuracies of probes. Shapes: k levels, 2 sides (top, bottom), r runs.

    network, checkpoint, data: what was measured, on what. attribution: by which values were ranked. kept: share of the
    values that were left, of each level. accuracy: of each probe on the test images, float64 [k, 2, r]. images: of the
    training and of the test. probe: name of the network that was trained. training: how.
    flat: share of the images whose gradient is 0 everywhere, as that of the loss is where a network is sure: they are
    ranked at random.
    """

    network: str
    checkpoint: str
    data: str
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
        """See `Measured`."""
        names = ("network", "checkpoint", "data", "attribution", "probe")
        return {
            **{name: getattr(self, name) for name in names},
            "kept": list(self.kept),
            "runs": self.accuracy.shape[2],
            "images": dict(zip(("train", "test"), self.images, strict=True)),
            "training": asdict(self.training),
        }

    def metrics(self) -> dict[str, float]:
        """`dissect/diffroar/difference`, the mean over levels, `flat`; per level `…/<kept>/difference`, ….

        With several runs also `…/<kept>/deviation`: the standard deviation over all pairs of runs (with n).
        """
        place = f"dissect/{self.name}"
        found = {f"{place}/difference": float(self.pairs.mean()), f"{place}/flat": self.flat}
        for kept, pairs, sides in zip(self.kept, self.pairs, self.accuracy.mean(2), strict=True):
            found[f"{place}/{kept:g}/difference"] = float(pairs.mean())
            if self.accuracy.shape[2] > 1:
                found[f"{place}/{kept:g}/deviation"] = float(pairs.std(correction=0))
            found |= {f"{place}/{kept:g}/{side}_accuracy": float(sides[i]) for i, side in enumerate(SIDES)}
        return found

    def tables(self) -> dict[str, Columns]:
        """`probes`: a row per probe."""
        runs = range(self.accuracy.shape[2])
        rows = [(kept, side, run) for kept in self.kept for side in SIDES for run in runs]
        kept, side, run = zip(*rows, strict=True)
        return {"probes": {"kept": kept, "left": side, "run": run, "accuracy": self.accuracy.flatten()}}

    def shown(self) -> Shown:
        """See `Measured`."""
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
        return Shown(title, ("values left", "top, accuracy", "bottom, accuracy", "DiffROAR"), rows, caption)

    def figures(self) -> dict[str, Any]:
        """`levels`: accuracy of both sides, and their difference, over the share that is left."""
        figure, axes = canvas(1, 2, 4.0, 3.0)
        for i, side in enumerate(SIDES):
            values = self.accuracy[:, i]
            spread = values.std(1, correction=0).numpy()
            axes[0][0].errorbar(self.kept, values.mean(1).numpy(), spread, marker="o", capsize=3, label=side)
        axes[0][0].set(title="accuracy of probes", xlabel="share of values left")
        axes[0][0].legend()
        spread = self.pairs.std(1, correction=0).numpy()
        axes[0][1].errorbar(self.kept, self.pairs.mean(1).numpy(), spread, marker="o", capsize=3)
        axes[0][1].axhline(0, color="grey", linewidth=0.8)
        axes[0][1].set(title="DiffROAR", xlabel="share of values left")
        return {"levels": figure}


def diffroar(
    *,
    network: nn.Module,
    data: LabelledImages,
    probe: Buildable,
    folder: str | Path,
    attribution: Ranking = "loss",
    kept: Sequence[float] = (0.1, 0.5),
    runs: int = 2,
    training: ProbeTraining = ProbeTraining(),  # noqa: B008 - frozen
    train_limit: int | None = 2000,
    test_limit: int | None = 500,
    checkpoint: str | None = None,
    preprocessing: str | Callable[[Tensor], Tensor] | Sequence[Sequence[float]] = MODEL,
    figure: bool = True,
    batch_size: int = 64,
    num_workers: int = 0,
    device: str = AUTO,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    loggers: Iterable[Logger] = (),
) -> dict[str, float]:
    """Rank, hide, train probes, and report.

    Args:
        network: whose gradients rank.
        data: images with classes.
        probe: what builds the networks that are trained anew; their pixels are prepared as those of the network.
        folder: where the files go, see `output.publish`.
        attribution: gradient of the loss or of the true class's logit, either times the input too; or random numbers,
            for comparison.
        kept: levels: shares of the values that are left.
        runs: probes of each level and side, with seeds of their own.
        training: of each probe.
        train_limit, test_limit: how many images, drawn at random; None takes all.
        checkpoint: whence the weights are, for the reader of the results.
        preprocessing, device: see `measure.measure`.
        figure: whether a figure is drawn.
        batch_size, num_workers: of the images that are ranked.
        cache_dir: folder of the temporary files, two or four bytes per value; None takes the system's.
        seed: of the choice of images, of random ranks, and of the first run.
        loggers: of the run; they get the table and the figure. The numbers are for the caller to log.

    Returns:
        See `DiffRoar.metrics`.

    Raises:
        InputError: an option is impossible, or the data has other classes than network or probe.
    """
    check_figure(figure)
    levels = _levels(kept)
    whole_number("runs", runs, 1)
    if attribution not in get_args(Ranking):
        raise InputError(f"attribution={attribution}: expected {', '.join(get_args(Ranking))}")
    read = partial(Reader, data, batch_size=batch_size, num_workers=num_workers, seed=seed)
    train, test = read(split="train", limit=train_limit), read(split="test", limit=test_limit)
    prepare = own_preprocessing(network) if preprocessing == MODEL else preprocessing_of(preprocessing)
    with RankFile(cache_dir) as store:
        with measured(network, chosen_device(device)) as place:
            attribute = _Ranker(PixelNetwork(network, prepare), data, attribution, place, seed)
            ranked, fill = store.fill(track(train, description="ranking train"), train.images, attribute, seed)
            tested, _ = store.fill(track(test, description="ranking test"), test.images, attribute, seed + 1)
        task = Task(data, ranked, tested, fill, prepare, place)
        jobs = [(share, side, run) for share in levels for side in SIDES for run in range(runs)]
        found = [
            predictive_power(probe, task, share, side, training, seed + run)
            for share, side, run in track(jobs, description="probes")
        ]
    name, source = origin(network)
    accuracy = torch.tensor(found, dtype=torch.float64).view(len(levels), 2, runs)
    counts = len(ranked), len(tested)
    told = (name, checkpoint or source, data.name, attribution, levels)
    result = DiffRoar(*told, accuracy, counts, probe.name, training, attribute.flat / sum(counts))
    return publish(result, folder, loggers, figure=figure)


def _levels(kept: Sequence[float]) -> tuple[float, ...]:
    levels = tuple(dict.fromkeys(float(share) for share in kept))
    if not levels or not all(0 < share <= 1 for share in levels):
        raise InputError(f"kept={list(kept)}: expected shares of values above 0, up to 1, such as [0.1, 0.5]")
    return levels


class _Ranker:
    """Gives each value of a batch the number that it is ranked by, and counts the images where all are 0."""

    def __init__(
        self, model: nn.Module, data: LabelledImages, attribution: Ranking, place: torch.device, seed: int
    ) -> None:
        self._model, self._data, self._attribution, self._place = model, data, attribution, place
        self._generator = torch.Generator().manual_seed(seed)
        self.flat = 0

    def __call__(self, batch: Batch) -> Tensor:
        if self._attribution == "random":
            return torch.rand(batch.images.shape, generator=self._generator)
        of: Literal["loss", "logit"] = "loss" if self._attribution.startswith("loss") else "logit"
        pixels = batch.images.to(self._place).float() / 255
        found, logits = gradients(self._model, pixels, batch.classes.to(self._place), of)
        check_logits(logits, self._data)
        self.flat += int((found.flatten(1).abs().amax(1) == 0).sum())
        return found * pixels if self._attribution.endswith("_x_input") else found
