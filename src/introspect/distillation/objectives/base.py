"""The form of every objective: from the outputs of student and teacher to weighted losses with names.

Shapes: b images, c classes, u units, h x w cells.
"""

from __future__ import annotations

from torch import Tensor, nn

from introspect.core.errors import InputError
from introspect.distillation.training import Training
from introspect.vision.features import Features


class Stage(nn.Module):
    """A small network on top of the frozen teacher that is trained before the student, once, and kept like a teacher.

    Attributes:
        layers: names of the teacher's modules whose outputs it reads.
        settings: how it is trained.

    Raises:
        InputError: its training has smoothed labels, but it learns from no labels.
    """

    layers: tuple[str, ...]

    def __init__(self, settings: Training) -> None:
        super().__init__()
        if settings.label_smoothing:
            raise InputError(f"objective: {type(self).__name__} learns from no labels: label_smoothing must be 0")
        self.settings = settings

    def inputs(self, images: Tensor) -> Tensor:
        """Return what the teacher reads of a prepared batch; see `Objective.inputs`."""
        return images

    def loss(self, teacher: Features) -> Tensor:
        """Return the loss of its training, a scalar."""
        raise NotImplementedError


class Objective(nn.Module):
    """Compute `{name: loss}` from the outputs of student and teacher; the losses are weighted, their sum is trained.

    Attributes:
        needs_teacher: whether it learns from a teacher.
        needs_indices: whether it must know which images of the training set it sees.
        inputs_per_image: how many inputs the networks read of each image; the first is the image itself.
        student_layers: names of the student's modules whose outputs it reads in `Features.maps`.
        teacher_layers: names of the teacher's modules whose outputs it reads.
        smoothing: fraction of the label that is spread over all classes.
    """

    needs_teacher = False
    needs_indices = False
    inputs_per_image = 1
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()
    smoothing = 0.0

    def __init__(self) -> None:
        super().__init__()
        # In a list, so that it is not a submodule: it is frozen and, like the teacher, in no checkpoint.
        self._stage: list[Stage] = []

    @property
    def stage(self) -> Stage | None:
        """What is trained on the teacher before the student, if anything; known after `build`."""
        return self._stage[0] if self._stage else None

    def build(self, student: Features, teacher: Features) -> None:
        """Make its own networks for the shapes of what the two put out for one image; called once, before training.

        Raises:
            InputError: their layers do not fit together.
        """

    def begin(self, classes: Tensor) -> None:
        """Learn the classes [n] of all training images, by index; called before each training if it `needs_indices`."""

    def inputs(self, images: Tensor) -> Tensor:
        """Return what student and teacher read of a prepared batch [b, 3, h, w]: [b * inputs_per_image, 3, h, w].

        The inputs of an image are consecutive.
        """
        return images

    def forward(
        self, student: Features, teacher: Features | None, targets: Tensor, indices: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of a batch, scalars.

        Args:
            student: outputs of the network that is trained.
            teacher: outputs of the teacher, without gradient; None without a teacher.
            targets: class numbers, int64 [b].
            indices: which images of the training set these are, int64 [b]; None where the data do not tell.
        """
        raise NotImplementedError

    def required(self, teacher: Features | None) -> Features:
        """Return the teacher's outputs.

        Raises:
            InputError: there is no teacher.
        """
        if teacher is None:
            raise InputError(f"objective: {type(self).__name__} needs a teacher: give model.teacher")
        return teacher


def fraction(name: str, value: float) -> float:
    """Return the value of an option if it is from 0 to 1.

    Raises:
        InputError: it is not.
    """
    if not 0 <= value <= 1:
        raise InputError(f"objective.{name}={value}: expected a fraction from 0 to 1")
    return value


def positive(name: str, value: float) -> float:
    """Return the value of an option if it is more than 0.

    Raises:
        InputError: it is not.
    """
    if not value > 0:
        raise InputError(f"objective.{name}={value}: expected more than 0")
    return value
