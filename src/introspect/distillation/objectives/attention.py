"""Attention transfer (Zagoruyko and Komodakis 2017, arXiv 1612.03928).

Shapes: b images, u units, h x w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, linalg
from torch.nn import functional

from introspect.core.errors import InputError
from introspect.distillation.objectives.base import Objective
from introspect.distillation.objectives.features import FeatureObjective
from introspect.vision.features import Features, exact


class AttentionTransfer(FeatureObjective):
    """`attention`: in each pair of layers, the student's attention map approaches the teacher's.

    The attention map of a layer is the mean of the squares of its units, scaled to length 1 over the cells. The loss of
    the difference d [b, h w] of two maps depends on the mode:

    - `code` (as the authors' program): mean of d² over images and cells;
    - `paper` (as their equation 2): length of d, mean over the images; larger by h w divided by that length.

    Losses of several pairs are added.

    Args:
        layers: of the student, such as `[layer3, layer4]`.
        teacher_layers: of the teacher, one for each; None takes the same names.
        mode: `code` or `paper`.
        weight: factor of the loss; the published 1000 belongs to `code`.
        base: see `FeatureObjective`.
        base_weight: see `FeatureObjective`. Upstream's weight of the labels is 1; the configuration published with Han
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
        super().__init__(
            layers=layers, teacher_layers=teacher_layers, base=base, base_weight=base_weight, weight=weight
        )
        if mode not in ("code", "paper"):
            raise InputError(f"objective.mode={mode}: expected code or paper")
        self.mode = mode

    def build(self, student: Features, teacher: Features) -> None:
        """See `Objective.build`."""
        self.pairs(student, teacher, aligned=True)

    def feature_losses(
        self, student: Features, teacher: Features, targets: Tensor, indices: Tensor | None
    ) -> dict[str, Tensor]:
        """See `FeatureObjective.feature_losses`."""
        losses = [difference(own, other, self.mode) for own, other in self.pairs(student, teacher, aligned=True)]
        return {"attention": sum(losses[1:], losses[0])}


def attention(maps: Tensor) -> Tensor:
    """Return the mean of the squares of the units of maps [b, u, h, w], scaled to length 1 per image, [b, h w]."""
    return functional.normalize(exact(maps).square().mean(1).flatten(1))


def difference(student: Tensor, teacher: Tensor, mode: Literal["code", "paper"]) -> Tensor:
    """Return the loss of one pair of maps, a scalar; see `AttentionTransfer`."""
    apart = attention(student) - attention(teacher)
    return apart.square().mean() if mode == "code" else linalg.vector_norm(apart, dim=1).mean()
