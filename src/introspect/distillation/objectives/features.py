"""Objectives on the outputs of layers, in addition to an objective on labels and logits.

Shapes: b images, u units, h x w cells.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from introspect.core.errors import InputError
from introspect.distillation.objectives.base import Objective
from introspect.distillation.objectives.labels import CrossEntropy
from introspect.vision.features import Features


class FeatureObjective(Objective):
    """Losses on the outputs of layers, added to those of an objective on labels and logits.

    Args:
        layers: of the student.
        teacher_layers: of the teacher, one for each; None takes the same names.
        base: the objective on labels and logits; None is `CrossEntropy`. With `LogitDistillation` it is the method
            "with logit" of Han et al. (2023, arXiv 2305.15734).
        base_weight: its factor, more than 0: without it, some methods would leave the classifier untrained.
        weight: factor of the losses on layers.

    Raises:
        InputError: a weight is out of range, layers and teacher_layers are not pairs, or the base is itself an
            objective on layers.
    """

    needs_teacher = True

    def __init__(
        self,
        *,
        layers: Sequence[str],
        teacher_layers: Sequence[str] | None,
        base: Objective | None,
        base_weight: float,
        weight: float,
    ) -> None:
        super().__init__()
        self.student_layers, self.teacher_layers = tuple(layers), tuple(teacher_layers or layers)
        if not base_weight > 0 or not weight >= 0:
            raise InputError(
                f"objective.base_weight={base_weight}, weight={weight}: expected more than 0 (or the classifier would "
                "not be trained), and at least 0"
            )
        if not self.student_layers or len(self.student_layers) != len(self.teacher_layers):
            raise InputError(
                f"objective.layers={list(layers)}, teacher_layers={list(self.teacher_layers)}: expected pairs of layers"
            )
        if isinstance(base, FeatureObjective):
            raise InputError("objective.base: expected cross_entropy, label_smoothing or logit")
        self.base = base or CrossEntropy()
        self.base_weight, self.weight = base_weight, weight

    def forward(
        self, student: Features, teacher: Features | None, targets: Tensor, indices: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `Objective.forward`.

        Raises:
            InputError: there is no teacher, or the layers do not fit together.
        """
        teacher, step = self.required(teacher), self.inputs_per_image
        losses = self.base(Features(student.logits[::step]), Features(teacher.logits[::step]), targets)
        weighted = {name: self.base_weight * loss for name, loss in losses.items()}
        found = self.feature_losses(student, teacher, targets, indices)
        return {**weighted, **{name: self.weight * loss for name, loss in found.items()}}

    def feature_losses(
        self, student: Features, teacher: Features, targets: Tensor, indices: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the losses on layers before they are multiplied by `weight`; see `Objective.forward`."""
        raise NotImplementedError

    def pairs(self, student: Features, teacher: Features, *, aligned: bool = False) -> list[tuple[Tensor, Tensor]]:
        """Return the outputs of the student's layers, each with that of the teacher's layer.

        Args:
            student: outputs of the student.
            teacher: outputs of the teacher.
            aligned: whether they are compared cell by cell.

        Raises:
            InputError: they are compared cell by cell and are not maps of the same height and width.
        """
        found = []
        for own, other in zip(self.student_layers, self.teacher_layers, strict=True):
            pair = student.maps[own], teacher.maps[other]
            if aligned:
                check_maps(own, pair[0])
                check_maps(other, pair[1])
                sizes = [list(maps.shape[-2:]) for maps in pair]
                if sizes[0] != sizes[1]:
                    raise InputError(
                        f"objective: the student's {own} has maps of {sizes[0]} cells, the teacher's {other} of "
                        f"{sizes[1]}: name layers (or a stem_stride) that agree"
                    )
            found.append(pair)
        return found


def check_maps(layer: str, maps: Tensor) -> int:
    """Return the number of units of a layer whose output is maps [b, u, h, w].

    Raises:
        InputError: the output has another shape.
    """
    if maps.dim() != 4:
        raise InputError(f"objective: layer {layer} puts out {list(maps.shape)}, expected maps [b, units, h, w]")
    return maps.shape[1]


def pooled(maps: Tensor) -> Tensor:
    """Return the means of maps [b, u, h, w] over their cells, [b, u]; vectors stay as they are."""
    return maps.mean((2, 3)) if maps.dim() == 4 else maps.flatten(1)
