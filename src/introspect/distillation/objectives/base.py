"""The form of every objective: from what student and teacher put out to weighted losses with names.

Shapes: b images, c classes, u units, h x w cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from introspect.core.errors import InputError
from introspect.vision.features import Features

if TYPE_CHECKING:
    from introspect.distillation.teacher import Training


class Stage(nn.Module):
    """A small network on top of the frozen teacher that is trained before the student is, and kept as a teacher is.

    layers: of the teacher, that it reads. views_per_image: images that it sees of each one. how: its training.

    Raises:
        InputError: its training has smoothed labels: it has none.
    """

    layers: tuple[str, ...]
    views_per_image = 1

    def __init__(self, how: Training) -> None:
        super().__init__()
        if how.label_smoothing:
            raise InputError(f"objective: {type(self).__name__} learns from no labels: label_smoothing must be 0")
        self.how = how

    def views(self, images: Tensor) -> Tensor:
        """What it sees of a prepared batch; see `Objective.views`."""
        return images

    def loss(self, teacher: Features) -> Tensor:
        """What its training makes small, a scalar."""
        raise NotImplementedError


class Objective(nn.Module):
    """`(student, teacher, targets) -> {name: loss}`; the loss is their sum, each being weighted already.

    student_layers, teacher_layers: modules whose outputs `Features.maps` must hold. views_per_image: images that
    student and teacher see of each one; the first of them is the image itself. needs_numbers: whether it must be told
    which images of the training set it sees. stage: what is trained on the teacher beforehand; it is frozen, and, as
    the teacher, in no checkpoint.
    """

    needs_teacher = False
    needs_numbers = False
    views_per_image = 1
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        # In a list, so that it is no part of the module.
        self._stage: list[Stage] = []

    @property
    def stage(self) -> Stage | None:
        """What is trained on the teacher before the student is, if anything; known after `build`."""
        return self._stage[0] if self._stage else None

    def build(self, student: Features, teacher: Features) -> None:
        """Make the networks of its own, fitted to what the two put out for one image; called once, before training.

        Raises:
            InputError: their layers do not fit together.
        """

    def begin(self, classes: Tensor) -> None:
        """Learn the class numbers [n] of all training images, if it `needs_numbers`; called before each training."""

    def views(self, images: Tensor) -> Tensor:
        """What student and teacher see of a prepared batch [b, 3, h, w]: [b * views_per_image, 3, h, w].

        All views of an image stand one after another.
        """
        return images

    def forward(
        self, student: Features, teacher: Features | None, targets: Tensor, numbers: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The losses of a batch, scalars.

        Args:
            student: what is trained.
            teacher: what it learns from, without gradient; None where none is needed.
            targets: class numbers, int64 [b].
            numbers: which images of the training set these are, int64 [b]; None where nobody asks.
        """
        raise NotImplementedError


class CrossEntropy(Objective):
    """`cross_entropy`: mean over the batch of -log softmax(z)[y], in nats."""

    def forward(
        self, student: Features, teacher: Features | None, targets: Tensor, numbers: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `Objective.forward`."""
        return {"cross_entropy": functional.cross_entropy(student.logits, targets)}


class Transfer(Objective):
    """A loss on what is inside the networks, beside an objective on labels and logits.

    Args:
        base: the objective on labels and logits; None is `CrossEntropy`. With `LogitDistillation` it is the method
            "with logit" of Han et al. (2023, arXiv 2305.15734).
        base_weight: its factor, more than 0: without it, some methods would leave the classifier untrained.
        weight: factor of the loss on the inside.

    Raises:
        InputError: a weight is out of range, or the base is not one on logits alone.
    """

    needs_teacher = True

    def __init__(self, *, base: Objective | None, base_weight: float, weight: float) -> None:
        super().__init__()
        if not base_weight > 0 or not weight >= 0:
            raise InputError(
                f"objective.base_weight={base_weight}, weight={weight}: expected more than 0 (or the classifier would "
                "not be trained), and at least 0"
            )
        if isinstance(base, Transfer):
            raise InputError("objective.base: expected cross_entropy, label_smoothing or logit")
        self.base = base or CrossEntropy()
        self.base_weight, self.weight = base_weight, weight

    def forward(
        self, student: Features, teacher: Features | None, targets: Tensor, numbers: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `Objective.forward`.

        Raises:
            InputError: there is no teacher, or the layers do not fit together.
        """
        if teacher is None:
            raise InputError(f"objective: {type(self).__name__} needs a teacher: give model.teacher")
        step = self.views_per_image
        losses = self.base(Features(student.logits[::step]), Features(teacher.logits[::step]), targets)
        weighted = {name: self.base_weight * loss for name, loss in losses.items()}
        inside = self.inside(student, teacher, targets, numbers)
        return {**weighted, **{name: self.weight * loss for name, loss in inside.items()}}

    def inside(
        self, student: Features, teacher: Features, targets: Tensor, numbers: Tensor | None
    ) -> dict[str, Tensor]:
        """The losses beside the base, which `weight` will multiply; see `Objective.forward`."""
        raise NotImplementedError


def share(name: str, value: float) -> float:
    """The value, if it is from 0 to 1.

    Raises:
        InputError: it is not.
    """
    if not 0 <= value <= 1:
        raise InputError(f"objective.{name}={value}: expected a share from 0 to 1")
    return value


def positive(name: str, value: float) -> float:
    """The value, if it is more than 0.

    Raises:
        InputError: it is not.
    """
    if not value > 0:
        raise InputError(f"objective.{name}={value}: expected more than 0")
    return value


def check_maps(layer: str, maps: Tensor) -> int:
    """The number of units of a layer whose output is maps [b, u, h, w].

    Raises:
        InputError: it is something else.
    """
    if maps.dim() != 4:
        raise InputError(f"objective: layer {layer} puts out {list(maps.shape)}, expected maps [b, units, h, w]")
    return maps.shape[1]


def check_pair(student_layer: str, student: Tensor, teacher_layer: str, teacher: Tensor) -> None:
    """Refuse maps of different height or width.

    Raises:
        InputError: naming both sizes.
    """
    check_maps(student_layer, student)
    check_maps(teacher_layer, teacher)
    if student.shape[-2:] != teacher.shape[-2:]:
        raise InputError(
            f"objective: the student's {student_layer} has maps of {list(student.shape[-2:])} cells, the teacher's "
            f"{teacher_layer} of {list(teacher.shape[-2:])}: name layers (or a stem_stride) that agree"
        )


def pooled(maps: Tensor) -> Tensor:
    """Means of maps [b, u, h, w] over their cells: [b, u]; vectors are left as they are."""
    return maps.mean((2, 3)) if maps.dim() == 4 else maps.flatten(1)
