"""Contrastive representation distillation, CRD (Tian, Krishnan and Isola 2020, arXiv 1910.10699).

Shapes: b images of a batch, n of the training set, d numbers of an embedding, k negatives per image, u units.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from introspect.core.errors import InputError
from introspect.core.seeds import derived_seed
from introspect.distillation.objectives.base import Objective, positive
from introspect.distillation.objectives.features import FeatureObjective, check_maps, pooled
from introspect.vision.features import Features, exact

_SIDES = ("student", "teacher")
_EPSILON = 1e-7  # of the reference


class Embedding(nn.Module):
    """A linear map of pooled maps [b, u, h, w] to vectors of length 1, [b, d], in float32 at least."""

    def __init__(self, units: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(units, size)

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        return functional.normalize(exact(self.linear(pooled(maps))))


class Banks(nn.Module):
    """The last embeddings of every training image: float32 [n, d] for the student, and for the teacher.

    They start at random, the same in every process, and are saved with the training. Each process holds all of them and
    updates them after a step with the embeddings of all processes, so that they stay equal without a broadcast.
    `scales` are the constants Z, which the first batch sets, 0 before.

    Args:
        size: d.
        seed: of the initial values.
    """

    student: Tensor
    teacher: Tensor
    scales: Tensor

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        self.size, self.seed = size, seed
        for side in _SIDES:
            self.register_buffer(side, torch.empty(0, size))
        self.register_buffer("scales", torch.zeros(2))
        self.steps = 0

    def begin(self, images: int) -> None:
        """Fill the banks for n training images."""
        generator = torch.Generator().manual_seed(self.seed)
        bound = math.sqrt(3 / self.size)
        for side in _SIDES:
            bank = torch.empty(images, self.size)
            setattr(self, side, bank.uniform_(-bound, bound, generator=generator).to(self.scales.device))
        self.scales.zero_()
        self.steps = 0

    @torch.no_grad()
    def update(self, indices: Tensor, student: Tensor, teacher: Tensor, momentum: float) -> None:
        """Move the rows of these images [b] of every process towards their new embeddings [b, d]."""
        everywhere = _gathered(indices)
        for bank, embedded in ((self.student, student), (self.teacher, teacher)):
            rows = torch.lerp(_gathered(embedded.detach()), bank[everywhere], momentum)
            bank[everywhere] = functional.normalize(rows)
        self.steps += 1

    def get_extra_state(self) -> dict[str, int]:
        """Return the number of steps, which decides the draws of the next one."""
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """See `get_extra_state`."""
        self.steps = state["steps"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Load; banks that have not been filled, because the student is only tested, take the saved size."""
        for side in _SIDES:
            saved, own = state_dict.get(prefix + side), getattr(self, side)
            if saved is None:
                continue
            if len(own) not in (0, len(saved)):
                raise InputError(
                    f"ckpt_path: its memory banks are of {len(saved)} training images, the data have {len(own)}"
                )
            if not len(own):
                setattr(self, side, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *others)


class ContrastiveDistillation(FeatureObjective):
    """`contrastive`: the student's embedding of an image is close to the teacher's, and far from those of other images.

    Noise-contrastive estimation on the embeddings of the pooled maps. With the bank of the other network W, the
    temperature t, and k negatives from n images, each network has h(j) = exp(W_j · e / t) / Z and the loss

        -log h(i) / (h(i) + k/n)  -  sum over the negatives j of log (k/n) / (h(j) + k/n),

    mean over the images i; the losses of the two are added. Z makes the mean h of the first batch 1/n. Banks become
    normalise(momentum * old + (1 - momentum) * new). Negatives are drawn with replacement from the images of other
    classes, from one sorted list of all images; the number of the step seeds the draws, so that a resumed training
    draws what an uninterrupted one does.

    The published configuration weighs the labels with 0, which leaves the classifier untrained; here `base_weight` is
    more than 0 (1, with 0.8 for the contrast upstream).

    Args:
        layer: of the student, such as `layer4`; its maps are averaged over their cells.
        teacher_layer: of the teacher; None takes the same name.
        size: d.
        negatives: k.
        temperature: t.
        momentum: fraction of the old row that a bank keeps.
        seed: of the banks' initial values and of the draws.
        weight: factor of the loss.
        base: see `FeatureObjective`.
        base_weight: see `FeatureObjective`.

    Raises:
        InputError: an option is out of range.
    """

    needs_indices = True
    _order: Tensor
    _starts: Tensor

    def __init__(
        self,
        *,
        layer: str,
        teacher_layer: str | None = None,
        size: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int = 0,
        weight: float = 0.8,
        base: Objective | None = None,
        base_weight: float = 1.0,
    ) -> None:
        super().__init__(
            layers=[layer], teacher_layers=[teacher_layer or layer], base=base, base_weight=base_weight, weight=weight
        )
        if size < 1 or negatives < 1 or not 0 <= momentum < 1:
            raise InputError(
                f"objective.size={size}, negatives={negatives}, momentum={momentum}: expected at least 1, at least 1, "
                "and a fraction below 1"
            )
        self.size, self.negatives, self.seed = size, negatives, seed
        self.temperature, self.momentum = positive("temperature", temperature), momentum
        self.banks = Banks(size, seed)
        self.register_buffer("_order", torch.empty(0, dtype=torch.int64), persistent=False)
        self.register_buffer("_starts", torch.empty(0, dtype=torch.int64), persistent=False)

    def build(self, student: Features, teacher: Features) -> None:
        """See `Objective.build`."""
        ((own, other),) = self.pairs(student, teacher)
        self.student_embedding = Embedding(_units(self.student_layers[0], own), self.size)
        self.teacher_embedding = Embedding(_units(self.teacher_layers[0], other), self.size)

    def begin(self, classes: Tensor) -> None:
        """See `Objective.begin`.

        Raises:
            InputError: all images are of one class, so that there are no negatives.
        """
        if classes.unique().numel() < 2:
            raise InputError("objective: the training images are of one class; contrast needs two")
        self._order = classes.argsort(stable=True)
        self._starts = functional.pad(classes.bincount().cumsum(0), (1, 0))
        self.banks.begin(len(classes))

    def feature_losses(
        self, student: Features, teacher: Features, targets: Tensor, indices: Tensor | None
    ) -> dict[str, Tensor]:
        """See `FeatureObjective.feature_losses`.

        Raises:
            InputError: the batch has no indices.
        """
        if indices is None or not len(self.banks.student):
            raise InputError("objective: contrastive distillation needs an ImageDataModule, which indexes its images")
        ((own, other),) = self.pairs(student, teacher)
        embedded = self.student_embedding(own), self.teacher_embedding(other)
        chosen = torch.cat([indices[:, None], self.draw(targets)], dim=1)
        return {"contrastive": self.contrast(*embedded, chosen)}

    @torch.no_grad()
    def draw(self, targets: Tensor) -> Tensor:
        """Draw the indices of k images of other classes for each target [b], uniformly and with replacement: [b, k]."""
        replicas, rank = (distributed.get_world_size(), distributed.get_rank()) if _is_distributed() else (1, 0)
        generator = torch.Generator(targets.device).manual_seed(derived_seed((self.seed, 0, self.banks.steps)))
        first, behind = self._starts[targets], self._starts[targets + 1]
        others = (len(self._order) - (behind - first))[:, None]
        # As one process draws for the images of all of them.
        shape = (replicas, len(targets), self.negatives)
        place = torch.randint(2**62, shape, generator=generator, device=targets.device)[rank] % others
        return self._order[torch.where(place < first[:, None], place, place + (behind - first)[:, None])]

    def contrast(self, student: Tensor, teacher: Tensor, chosen: Tensor) -> Tensor:
        """Return the loss of embeddings [b, d], a scalar, and update the banks with them.

        Args:
            student: of length 1.
            teacher: of length 1.
            chosen: indices of the images that they are compared with, [b, 1 + k], the image itself first.
        """
        banks = self.banks
        with torch.autocast(student.device.type, enabled=False):
            logs = [
                torch.einsum("bkd,bd->bk", bank[chosen], embedded) / self.temperature
                for bank, embedded in ((banks.teacher, student), (banks.student, teacher))
            ]
            if banks.steps == 0:
                with torch.no_grad():
                    means = torch.stack([log.exp().mean() for log in logs])
                    banks.scales.copy_(_mean_of_all(means) * len(banks.student))
            losses = [
                noise_contrast(log - scale.log(), len(banks.student))
                for log, scale in zip(logs, banks.scales, strict=True)
            ]
        banks.update(chosen[:, 0], student, teacher, self.momentum)
        return losses[0] + losses[1]


def noise_contrast(logs: Tensor, images: int) -> Tensor:
    """Return the noise-contrastive loss of log h [b, 1 + k], the image itself first; noise is uniform over n images."""
    noise = (logs.shape[1] - 1) / images
    own = functional.softplus(math.log(noise + _EPSILON) - logs[:, 0])
    others = torch.log1p((logs[:, 1:].exp() + _EPSILON) / noise)
    return (own.sum() + others.sum()) / len(logs)


def _units(layer: str, maps: Tensor) -> int:
    return maps.shape[1] if maps.dim() == 2 else check_maps(layer, maps)


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _gathered(own: Tensor) -> Tensor:
    """Return the rows of all processes, in the order of their ranks."""
    if not _is_distributed():
        return own
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, own.contiguous())
    return torch.cat(parts)


def _mean_of_all(value: Tensor) -> Tensor:
    if _is_distributed():
        distributed.all_reduce(value)
        value = value / distributed.get_world_size()
    return value
