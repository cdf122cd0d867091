"""Self-supervision knowledge distillation, SSKD (Xu, Liu, Li and Loy 2020, arXiv 2006.07114).

Shapes: b images, four views of each (4 b rows, those of an image one after another), c classes, u units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from introspect.core.errors import InputError
from introspect.distillation.objectives.base import Objective, Stage, Transfer, check_maps, pooled, positive, share
from introspect.vision.features import Features, exact

if TYPE_CHECKING:
    from introspect.distillation.teacher import Training

VIEWS = 4  # the image, and the image turned by 90, 180 and 270 degrees


class Head(nn.Sequential):
    """What makes a self-supervised representation [b, u] of pooled maps: two linear layers, a rectifier between."""

    def __init__(self, units: int) -> None:
        super().__init__(nn.Linear(units, units), nn.ReLU(), nn.Linear(units, units))


class SelfSupervision(Stage):
    """The first stage: a head on the frozen teacher that finds, for a turned image, the image it was made from.

    Its loss is the cross-entropy of the cosine similarities [3 b, b] of turned and original images.

    Args:
        layer: of the teacher.
        units: u of that layer.
        how: its training.
    """

    views_per_image = VIEWS

    def __init__(self, layer: str, units: int, how: Training) -> None:
        super().__init__(how)
        self.layers = (layer,)
        self.head = Head(units)

    def views(self, images: Tensor) -> Tensor:
        """See `rotations`."""
        return rotations(images)

    def loss(self, teacher: Features) -> Tensor:
        """See `Stage.loss`."""
        alike = similarities(self.head(pooled(teacher.maps[self.layers[0]])))
        return functional.cross_entropy(alike, _sources(alike))


class SelfSupervisedDistillation(Transfer):
    """`similarity` and `rotated`: of turned images, the student learns the teacher's similarities and its logits.

    - `similarity`: T² KL between the rows of the cosine similarities [3 b, b] of turned to original images;
    - `rotated`: T² KL between the class probabilities of the turned images.

    Of the rows where the teacher is wrong (its own image, or the true class, is not the most probable), only a share
    counts, those first where the right one has the best rank; each KL is a mean over the rows that count. The views of
    an image are made from the batch, so that there are always four of each, also of a last, smaller batch; all are
    turned from one crop, where the reference crops each anew. With a share so small that no row counts, a loss is 0,
    where the reference divides by 0. `rotated` teaches logits, so this method without `logit` as its base is not free
    of them.

    Args:
        layer: of the student, such as `layer4`; its maps are averaged over their cells.
        head: how the first stage is trained.
        teacher_layer: of the teacher; None names the same.
        temperature: T of `similarity`.
        rotated_temperature: T of `rotated`.
        kept: share of the rows on which the teacher is wrong that count in `similarity`.
        rotated_kept: the same in `rotated`.
        weight, rotated_weight: factors of the two.
        base, base_weight: see `Transfer`.

    Raises:
        InputError: an option is out of range.
    """

    views_per_image = VIEWS

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
        super().__init__(base=base, base_weight=base_weight, weight=1.0)
        if not (weight >= 0 and rotated_weight >= 0):
            raise InputError(
                f"objective.weight={weight}, rotated_weight={rotated_weight}: expected at least 0 for both"
            )
        self.student_layers, self.teacher_layers = (layer,), (teacher_layer or layer,)
        self.temperature = positive("temperature", temperature)
        self.rotated_temperature = positive("rotated_temperature", rotated_temperature)
        self.kept, self.rotated_kept = share("kept", kept), share("rotated_kept", rotated_kept)
        self.weights, self.how = (weight, rotated_weight), head

    def build(self, student: Features, teacher: Features) -> None:
        """See `Objective.build`."""
        (own,), (other,) = self.student_layers, self.teacher_layers
        self.head = Head(check_maps(own, student.maps[own]))
        with torch.random.fork_rng():  # students of all seeds have one head of the teacher
            torch.manual_seed(self.how.seed)
            self._stage = [SelfSupervision(other, check_maps(other, teacher.maps[other]), self.how)]

    def views(self, images: Tensor) -> Tensor:
        """See `rotations`."""
        return rotations(images)

    def inside(
        self, student: Features, teacher: Features, targets: Tensor, numbers: Tensor | None
    ) -> dict[str, Tensor]:
        """See `Transfer.inside`."""
        (own,), (other,) = self.student_layers, self.teacher_layers
        stage = cast(SelfSupervision, self.stage)
        with torch.no_grad():
            wanted = stage.head(pooled(teacher.maps[other]))
        losses = (
            self.similarity(self.head(pooled(student.maps[own])), wanted),
            self.rotated(student.logits, teacher.logits, targets),
        )
        return {
            name: weight * loss
            for name, weight, loss in zip(("similarity", "rotated"), self.weights, losses, strict=True)
        }

    def similarity(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of representations [4 b, u], a scalar; the two may have different u."""
        own, other = similarities(student), similarities(teacher)
        rows = trusted(other, _sources(other), self.kept)
        return divergence_of(rows, own, other, self.temperature)

    def rotated(self, student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits [4 b, c] of images of the classes `targets` [b], a scalar."""
        own, other = turned(student), turned(teacher)
        rows = trusted(other, targets.repeat_interleave(VIEWS - 1), self.rotated_kept)
        return divergence_of(rows, own, other, self.rotated_temperature)


def rotations(images: Tensor) -> Tensor:
    """Four views of each image [b, 3, s, s], turned counterclockwise by 0, 90, 180 and 270 degrees: [4 b, 3, s, s].

    Raises:
        InputError: they are not square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise InputError(f"objective: rotations need square images, these have {list(images.shape[-2:])} pixels")
    views = torch.stack([torch.rot90(images, turns, (2, 3)) for turns in range(VIEWS)], dim=1).flatten(0, 1)
    return views.contiguous(memory_format=torch.channels_last)


def turned(rows: Tensor) -> Tensor:
    """The rows [3 b, …] of the turned views among those of all views [4 b, …]."""
    return rows.unflatten(0, (-1, VIEWS))[:, 1:].flatten(0, 1)


def similarities(representations: Tensor) -> Tensor:
    """Cosine similarities [3 b, b] of turned to original images, from representations [4 b, u]."""
    directions = functional.normalize(exact(representations))
    with torch.autocast(directions.device.type, enabled=False):
        return turned(directions) @ directions[::VIEWS].T


def _sources(alike: Tensor) -> Tensor:
    """Which image each turned view was made from, [3 b]."""
    return torch.arange(alike.shape[1], device=alike.device).repeat_interleave(VIEWS - 1)


def trusted(scores: Tensor, right: Tensor, kept: float) -> Tensor:
    """Which rows of scores [r, m] count, as 0 and 1, [r].

    All where the right column [r] has the highest score, and a share of the others, rounded down, by its rank.
    """
    rank = (scores > scores.gather(1, right[:, None])).sum(1)
    wrong = (rank > 0).sum()
    # In float32 a product such as 100 * 0.29 may fall short of its integer.
    counting = len(rank) - wrong + (wrong * kept + 1e-4).floor()
    place = torch.empty_like(rank)
    place[rank.argsort(stable=True)] = torch.arange(len(rank), device=rank.device)
    return (place < counting).to(scores.dtype)


def divergence_of(rows: Tensor, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(softmax(teacher / T) || softmax(student / T)) of scores [r, m] in nats, mean over the rows that count."""
    logs = [functional.log_softmax(scores / temperature, dim=1) for scores in (student, teacher)]
    divergence = functional.kl_div(logs[0], logs[1], reduction="none", log_target=True).sum(1)
    return temperature**2 * (divergence * rows).sum() / rows.sum().clamp(min=1)
