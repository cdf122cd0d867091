"""Attention transfer (Zagoruyko and Komodakis 2017, arXiv 1612.03928).

Shapes: b images, u units, h x w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, linalg
from torch.nn import functional

from introspect.core.errors import InputError
from introspect.distillation.objectives.base import Objective, Transfer, check_pair
from introspect.vision.features import Features, exact


class AttentionTransfer(Transfer):
    """`attention`: the student attends to the places that the teacher attends to, in each pair of layers.

    The attention map of a layer is the mean of the squares of its units, scaled to length 1 over the places. Their
    difference d [b, h w] is measured in one of two ways:

    - `code` (as the authors' program): mean of d² over images and places;
    - `paper` (as their equation 2): length of d, mean over the images; larger by h w divided by that length.

    Losses of several pairs are added.

    Args:
        layers: of the student, such as `[layer3, layer4]`.
        teacher_layers: of the teacher, one for each; None names the same.
        mode: `code` or `paper`.
        weight: factor of the loss; the published 1000 belongs to `code`.
        base, base_weight: see `Transfer`. Upstream's weight of the labels is 1; the configuration published with Han
            et al. has 0.1.

    Raises:
        InputError: an option is none of these.
    """

    def __init__(
        self,
        *,
        layers: Sequence[str],
        teacher_layers: Sequence[str] | None = None,
        mode: Literal["code", "paper"] = "code",
        weight: float = 1000.0,
        base: Objective | None = None,
        base_weight: float = 1.0,
    ) -> None:
        super().__init__(base=base, base_weight=base_weight, weight=weight)
        self.student_layers, self.teacher_layers = tuple(layers), tuple(teacher_layers or layers)
        if mode not in ("code", "paper"):
            raise InputError(f"objective.mode={mode}: expected code or paper")
        if not self.student_layers or len(self.student_layers) != len(self.teacher_layers):
            raise InputError(
                f"objective.layers={list(layers)}, teacher_layers={list(self.teacher_layers)}: expected pairs of layers"
            )
        self.mode = mode

    def build(self, student: Features, teacher: Features) -> None:
        """See `Objective.build`."""
        self._pairs(student, teacher)

    def inside(
        self, student: Features, teacher: Features, targets: Tensor, numbers: Tensor | None
    ) -> dict[str, Tensor]:
        """See `Transfer.inside`."""
        losses = [difference(own, other, self.mode) for own, other in self._pairs(student, teacher)]
        return {"attention": sum(losses[1:], losses[0])}

    def _pairs(self, student: Features, teacher: Features) -> list[tuple[Tensor, Tensor]]:
        pairs = []
        for own, other in zip(self.student_layers, self.teacher_layers, strict=True):
            check_pair(own, student.maps[own], other, teacher.maps[other])
            pairs.append((student.maps[own], teacher.maps[other]))
        return pairs


def attention(maps: Tensor) -> Tensor:
    """Where maps [b, u, h, w] are active: the mean of the units' squares, scaled to length 1 per image, [b, h w]."""
    return functional.normalize(exact(maps).square().mean(1).flatten(1))


def difference(student: Tensor, teacher: Tensor, mode: Literal["code", "paper"]) -> Tensor:
    """The loss of one pair of maps, a scalar; see `AttentionTransfer`."""
    apart = attention(student) - attention(teacher)
    return apart.square().mean() if mode == "code" else linalg.vector_norm(apart, dim=1).mean()
