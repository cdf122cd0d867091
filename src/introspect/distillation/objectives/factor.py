"""Factor transfer (Kim, Park and Kwak 2018, arXiv 1802.04977).

Shapes: b images, u units, h x w cells, k factors.
"""

from __future__ import annotations

import itertools
from typing import Literal, cast

import torch
from torch import Tensor, linalg, nn
from torch.nn import functional

from introspect.core.errors import InputError
from introspect.distillation.objectives.base import Objective, Stage, fraction
from introspect.distillation.objectives.features import FeatureObjective
from introspect.distillation.training import Training
from introspect.vision.features import Features, exact

_SLOPE = 0.1  # of the leaky rectifiers


class Paraphraser(Stage):
    """The first stage: an autoencoder of the teacher's maps, whose encoder puts out the teacher's factors.

    Its loss is the mean squared error of the decoded maps. Each half has three convolutions of 3 x 3, without batch
    normalisation, as in the published configuration.

    Args:
        layer: of the teacher.
        units: u of that layer.
        factors: k.
        settings: how it is trained.
    """

    def __init__(self, layer: str, units: int, factors: int, settings: Training) -> None:
        super().__init__(settings)
        self.layers = (layer,)
        self.encoder = translator(units, factors)
        widths = (factors, factors, units, units)
        self.decoder = nn.Sequential(
            *(
                part
                for inputs, outputs in itertools.pairwise(widths)
                for part in (nn.ConvTranspose2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(_SLOPE))
            )
        )

    def loss(self, teacher: Features) -> Tensor:
        """See `Stage.loss`."""
        maps = teacher.maps[self.layers[0]]
        return functional.mse_loss(self.decoder(self.encoder(maps)), maps)


class FactorTransfer(FeatureObjective):
    """`factor`: a translator maps the student's layer to the factors of the teacher.

    Both are flattened and scaled to length 1 per image. The loss is the mean of the absolute differences over images
    and places (`p` = 1), or the length of the difference, mean over the images (`p` = 2). A map of zeros has factors of
    length 0, which the reference divides by; here it stays 0.

    Args:
        layer: of the student, such as `layer4`.
        teacher_layer: of the teacher; None takes the same name.
        rate: factors per unit of the teacher's layer.
        p: which norm of the difference, 1 or 2.
        paraphraser: how the first stage is trained.
        weight: factor of the loss.
        base: see `FeatureObjective`.
        base_weight: see `FeatureObjective`.

    Raises:
        InputError: an option is out of range.
    """

    def __init__(
        self,
        *,
        layer: str,
        paraphraser: Training,
        teacher_layer: str | None = None,
        rate: float = 0.5,
        p: Literal[1, 2] = 1,
        weight: float = 1000.0,
        base: Objective | None = None,
        base_weight: float = 1.0,
    ) -> None:
        super().__init__(
            layers=[layer], teacher_layers=[teacher_layer or layer], base=base, base_weight=base_weight, weight=weight
        )
        if p not in (1, 2):
            raise InputError(f"objective.p={p}: expected 1 or 2")
        self.rate, self.p, self.settings = fraction("rate", rate), p, paraphraser

    def build(self, student: Features, teacher: Features) -> None:
        """See `Objective.build`."""
        ((own, other),) = self.pairs(student, teacher, aligned=True)
        (layer,), units = self.teacher_layers, other.shape[1]
        factors = int(units * self.rate)
        if not factors:
            raise InputError(f"objective.rate={self.rate}: leaves no factor of the {units} units of {layer}")
        self.translator = translator(own.shape[1], factors)
        with torch.random.fork_rng():  # students of all seeds have the same paraphraser
            torch.manual_seed(self.settings.seed)
            self._stage = [Paraphraser(layer, units, factors, self.settings)]

    def feature_losses(
        self, student: Features, teacher: Features, targets: Tensor, indices: Tensor | None
    ) -> dict[str, Tensor]:
        """See `FeatureObjective.feature_losses`."""
        ((own, other),) = self.pairs(student, teacher, aligned=True)
        with torch.no_grad():
            expected = cast(Paraphraser, self.stage).encoder(other)
        return {"factor": distance(self.translator(own), expected, self.p)}


def translator(units: int, factors: int) -> nn.Sequential:
    """Return three convolutions of 3 x 3 from maps of u units to maps of k factors, of the same size."""
    widths = (units, units, factors, factors)
    return nn.Sequential(
        *(
            part
            for inputs, outputs in itertools.pairwise(widths)
            for part in (nn.Conv2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(_SLOPE))
        )
    )


def distance(student: Tensor, teacher: Tensor, p: Literal[1, 2] = 1) -> Tensor:
    """Return the loss between factors [b, k, h, w], a scalar; see `FactorTransfer`."""
    own, other = (functional.normalize(exact(factors).flatten(1)) for factors in (student, teacher))
    return functional.l1_loss(own, other) if p == 1 else linalg.vector_norm(own - other, dim=1).mean()
