"""Factor transfer (Kim, Park and Kwak 2018, arXiv 1802.04977).

Shapes: b images, u units, h x w cells, k factors.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, linalg, nn
from torch.nn import functional

from introspect.core.errors import InputError
from introspect.distillation.objectives.base import Objective, Stage, Transfer, check_maps, check_pair, share
from introspect.vision.features import Features, exact

if TYPE_CHECKING:
    from introspect.distillation.teacher import Training

_SLOPE = 0.1  # of the leaky rectifiers


class Paraphraser(Stage):
    """The first stage: an autoencoder of the teacher's maps; what its encoder puts out are the teacher's factors.

    Its loss is the mean squared error of what it decodes. Three convolutions of 3 x 3 in each half, without batch
    normalisation, as in the published configuration.

    Args:
        layer: of the teacher.
        units: u of that layer.
        factors: k.
        how: its training.
    """

    def __init__(self, layer: str, units: int, factors: int, how: Training) -> None:
        super().__init__(how)
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


class FactorTransfer(Transfer):
    """`factor`: a translator brings the student's maps to the factors of the teacher.

    Both are flattened and scaled to length 1 per image; their difference is measured by the mean of its absolute values
    over images and places (`p` = 1) or by its length, mean over the images (`p` = 2). A map of zeros has factors of
    length 0, which the reference divides by; here it stays 0.

    Args:
        layer: of the student, such as `layer4`.
        teacher_layer: of the teacher; None names the same.
        rate: factors per unit of the teacher's layer.
        p: which length of the difference, 1 or 2.
        paraphraser: how the first stage is trained.
        weight: factor of the loss.
        base, base_weight: see `Transfer`.

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
        super().__init__(base=base, base_weight=base_weight, weight=weight)
        if p not in (1, 2):
            raise InputError(f"objective.p={p}: expected 1 or 2")
        self.student_layers, self.teacher_layers = (layer,), (teacher_layer or layer,)
        self.rate, self.p, self.how = share("rate", rate), p, paraphraser

    def build(self, student: Features, teacher: Features) -> None:
        """See `Objective.build`."""
        (own,), (other,) = self.student_layers, self.teacher_layers
        check_pair(own, student.maps[own], other, teacher.maps[other])
        units = check_maps(other, teacher.maps[other])
        factors = int(units * self.rate)
        if not factors:
            raise InputError(f"objective.rate={self.rate}: leaves no factor of the {units} units of {other}")
        self.translator = translator(check_maps(own, student.maps[own]), factors)
        with torch.random.fork_rng():  # students of all seeds have one paraphraser
            torch.manual_seed(self.how.seed)
            self._stage = [Paraphraser(other, units, factors, self.how)]

    def inside(
        self, student: Features, teacher: Features, targets: Tensor, numbers: Tensor | None
    ) -> dict[str, Tensor]:
        """See `Transfer.inside`."""
        (own,), (other,) = self.student_layers, self.teacher_layers
        check_pair(own, student.maps[own], other, teacher.maps[other])
        stage = cast(Paraphraser, self.stage)
        with torch.no_grad():
            wanted = stage.encoder(teacher.maps[other])
        return {"factor": distance(self.translator(student.maps[own]), wanted, self.p)}


def translator(units: int, factors: int) -> nn.Sequential:
    """Three convolutions of 3 x 3 from maps of u units to maps of k factors, of the same size."""
    widths = (units, units, factors, factors)
    return nn.Sequential(
        *(
            part
            for inputs, outputs in itertools.pairwise(widths)
            for part in (nn.Conv2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(_SLOPE))
        )
    )


def distance(student: Tensor, teacher: Tensor, p: Literal[1, 2] = 1) -> Tensor:
    """The loss between factors [b, k, h, w], a scalar; see `FactorTransfer`."""
    own, other = (functional.normalize(exact(factors).flatten(1)) for factors in (student, teacher))
    return functional.l1_loss(own, other) if p == 1 else linalg.vector_norm(own - other, dim=1).mean()
