"""The form of every objective: from what student and teacher put out to weighted losses with names.

Shapes: b images, c classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from introspect.errors import InputError


@dataclass(frozen=True, slots=True)
class Features:
    """What a network makes of a batch: logits [b, c], and the outputs of those layers that an objective wants."""

    logits: Tensor
    maps: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """`(student, teacher, targets) -> {name: loss}`; the loss is their sum, each being weighted already.

    student_layers, teacher_layers: modules whose outputs `Features.maps` must hold.
    """

    needs_teacher = False
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def forward(self, student: Features, teacher: Features | None, targets: Tensor) -> dict[str, Tensor]:
        """The losses of a batch, scalars.

        Args:
            student: what is trained.
            teacher: what it learns from, without gradient; None where none is needed.
            targets: class numbers, int64 [b].
        """
        raise NotImplementedError


def share(name: str, value: float) -> float:
    """The value, if it is from 0 to 1.

    Raises:
        InputError: it is not.
    """
    if not 0 <= value <= 1:
        raise InputError(f"objective.{name}={value}: expected a share from 0 to 1")
    return value
