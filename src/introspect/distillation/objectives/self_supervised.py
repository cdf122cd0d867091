"""Self-supervision knowledge distillation, SSKD (Xu, Liu, Li and Loy 2020, arXiv 2006.07114).

Shapes: b images, four views of each (4 b rows, those of an image consecutive), c classes, u units. A view is the image
itself or the image rotated, as in the paper.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from introspect.core.errors import InputError
from introspect.distillation.objectives.base import Objective, Stage, fraction, positive
from introspect.distillation.objectives.features import FeatureObjective, check_maps, pooled
from introspect.distillation.objectives.logit import soft_divergence
from introspect.distillation.training import Training
from introspect.vision.features import Features, exact

VIEWS = 4  # the image, and the image rotated by 90, 180 and 270 degrees


class Head(nn.Sequential):
    """From pooled maps to a self-supervised representation [b, u]: two linear layers with a ReLU between them."""

    def __init__(self, units: int) -> None:
        super().__init__(nn.Linear(units, units), nn.ReLU(), nn.Linear(units, units))


class SelfSupervision(Stage):
    """The first stage: a head on the frozen teacher that finds the original of a rotated image.

    Its loss is the cross-entropy of the cosine similarities [3 b, b] of rotated and original images.

    Args:
        layer: of the teacher.
        units: u of that layer.
        settings: how it is trained.
    """

    def __init__(self, layer: str, units: int, settings: Training) -> None:
        super().__init__(settings)
        self.layers = (layer,)
        self.head = Head(units)

    def inputs(self, images: Tensor) -> Tensor:
        """See `rotations`."""
        return rotations(images)

    def loss(self, teacher: Features) -> Tensor:
        """See `Stage.loss`."""
        alike = similarities(self.head(pooled(teacher.maps[self.layers[0]])))
        return functional.cross_entropy(alike, _sources(alike))


class SelfSupervisedDistillation(FeatureObjective):
    """`similarity` and `rotated`: on rotated images, the student learns the teacher's similarities and its logits.

    - `similarity`: T² KL between the rows of the cosine similarities [3 b, b] of rotated to original images;
    - `rotated`: T² KL between the class probabilities of the rotated images.

    Of the rows on which the teacher is wrong (the original, or the true class, does not have the highest score) only a
    fraction counts, those first where the correct one ranks best; each KL is a mean over the rows that count. Views are
    made from the batch, so that there are four of each image in a smaller last batch too; all are rotations of one
    crop, where the reference crops each anew. If no row counts, a loss is 0, where the reference divides by 0.
    `rotated` teaches logits, so the method learns from logits also without `logit` as its base.

    Args:
        layer: of the student, such as `layer4`; its maps are averaged over their cells.
        head: how the first stage is trained.
        teacher_layer: of the teacher; None takes the same name.
        temperature: T of `similarity`.
        rotated_temperature: T of `rotated`.
        kept: fraction of the rows on which the teacher is wrong that count in `similarity`.
        rotated_kept: the same in `rotated`.
        weight: factor of `similarity`.
        rotated_weight: factor of `rotated`.
        base: see `FeatureObjective`.
        base_weight: see `FeatureObjective`.

    Raises:
        InputError: an option is out of range.
    """

    inputs_per_image = VIEWS

    def __init__(
        self,
        *,
        layer: str,
        head: Training,
        teacher_layer: str | None = None,
        temperature: float = 0.5,
        rotated_temperature: float = 4.0,
        kept: float = 0.75,
        rotated_kept: float = 1.0,
        weight: float = 10.0,
        rotated_weight: float = 2.7,
        base: Objective | None = None,
        base_weight: float = 1.0,
    ) -> None:
        super().__init__(
            layers=[layer], teacher_layers=[teacher_layer or layer], base=base, base_weight=base_weight, weight=1.0
        )
        if not (weight >= 0 and rotated_weight >= 0):
            raise InputError(
                f"objective.weight={weight}, rotated_weight={rotated_weight}: expected at least 0 for both"
            )
        self.temperature = positive("temperature", temperature)
        self.rotated_temperature = positive("rotated_temperature", rotated_temperature)
        self.kept, self.rotated_kept = fraction("kept", kept), fraction("rotated_kept", rotated_kept)
        self.weights, self.settings = (weight, rotated_weight), head

    def build(self, student: Features, teacher: Features) -> None:
        """See `Objective.build`."""
        ((own, other),), (layer,) = self.pairs(student, teacher), self.teacher_layers
        self.head = Head(check_maps(self.student_layers[0], own))
        with torch.random.fork_rng():  # students of all seeds have the same head of the teacher
            torch.manual_seed(self.settings.seed)
            self._stage = [SelfSupervision(layer, check_maps(layer, other), self.settings)]

    def inputs(self, images: Tensor) -> Tensor:
        """See `rotations`."""
        return rotations(images)

    def feature_losses(
        self, student: Features, teacher: Features, targets: Tensor, indices: Tensor | None
    ) -> dict[str, Tensor]:
        """See `FeatureObjective.feature_losses`."""
        ((own, other),) = self.pairs(student, teacher)
        with torch.no_grad():
            expected = cast(SelfSupervision, self.stage).head(pooled(other))
        return {
            "similarity": self.weights[0] * self.similarity(self.head(pooled(own)), expected),
            "rotated": self.weights[1] * self.rotated(student.logits, teacher.logits, targets),
        }

    def similarity(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of representations [4 b, u], a scalar; the two may have different u."""
        own, other = similarities(student), similarities(teacher)
        rows = trusted(other, _sources(other), self.kept)
        return soft_divergence(own, other, self.temperature, rows)

    def rotated(self, student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits [4 b, c] of images of the classes `targets` [b], a scalar."""
        own, other = rotated_rows(student), rotated_rows(teacher)
        rows = trusted(other, targets.repeat_interleave(VIEWS - 1), self.rotated_kept)
        return soft_divergence(own, other, self.rotated_temperature, rows)


def rotations(images: Tensor) -> Tensor:
    """Return four views [4 b, 3, s, s] of images [b, 3, s, s]: rotated counterclockwise by 0, 90, 180 and 270 degrees.

    Raises:
        InputError: they are not square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise InputError(f"objective: rotations need square images, these have {list(images.shape[-2:])} pixels")
    views = torch.stack([torch.rot90(images, times, (2, 3)) for times in range(VIEWS)], dim=1).flatten(0, 1)
    return views.contiguous(memory_format=torch.channels_last)


def rotated_rows(rows: Tensor) -> Tensor:
    """Return the rows [3 b, …] of the rotated views among those of all views [4 b, …]."""
    return rows.unflatten(0, (-1, VIEWS))[:, 1:].flatten(0, 1)


def similarities(representations: Tensor) -> Tensor:
    """Return the cosine similarities [3 b, b] of rotated to original images, from representations [4 b, u]."""
    directions = functional.normalize(exact(representations))
    with torch.autocast(directions.device.type, enabled=False):
        return rotated_rows(directions) @ directions[::VIEWS].T


def _sources(alike: Tensor) -> Tensor:
    """Return the image that each rotated view was made from, [3 b]."""
    return torch.arange(alike.shape[1], device=alike.device).repeat_interleave(VIEWS - 1)


def trusted(scores: Tensor, correct: Tensor, kept: float) -> Tensor:
    """Return which rows of scores [r, m] count, as 0 and 1, [r].

    All in which the correct column [r] has the highest score, and a fraction of the others, rounded down, those first
    where it ranks best.
    """
    rank = (scores > scores.gather(1, correct[:, None])).sum(1)
    wrong = (rank > 0).sum()
    # In float32 a product such as 100 * 0.29 may fall short of its integer.
    counting = len(rank) - wrong + (wrong * kept + 1e-4).floor()
    place = torch.empty_like(rank)
    place[rank.argsort(stable=True)] = torch.arange(len(rank), device=rank.device)
    return (place < counting).to(scores.dtype)
