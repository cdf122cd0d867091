"""Logit distillation (Hinton, Vinyals and Dean 2015, arXiv 1503.02531): temperature scaling and its factor T²."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from introspect.core.errors import InputError
from introspect.distillation.objectives.base import Objective, fraction, positive
from introspect.vision.features import Features


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float, counts: Tensor | None = None) -> Tensor:
    """Return T² KL(softmax(teacher / T) || softmax(student / T)) in nats, a scalar.

    The factor T² keeps the size of the gradients when T changes (Hinton et al., section 2).

    Args:
        student: logits or other scores, [r, c].
        teacher: the same of the teacher.
        temperature: T.
        counts: 1 for the rows that count and 0 for the others, [r]; None counts all. The divergence is summed over the
            columns and averaged over the rows that count; it is 0 if none counts.
    """
    log_student = functional.log_softmax(student / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher / temperature, dim=-1)
    if counts is None:
        mean = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    else:
        rows = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)
        mean = (rows * counts).sum() / counts.sum().clamp(min=1)
    return temperature**2 * mean


class LogitDistillation(Objective):
    """`cross_entropy`: (1 - alpha) CE(y, z_s). `logit`: alpha T² KL(softmax(z_t / T) || softmax(z_s / T)).

    Alpha weighs the *teacher's* side, as Han et al. (2023, arXiv 2305.15734) write it; in torchdistill and its
    descendants the alpha of a config weighs the labels' side. T² is applied for every alpha (theirs drops it at
    alpha = 0). The KL is summed over classes and averaged over the batch.

    Args:
        temperature: T, more than 0.
        alpha: weight of the teacher, from 0 (labels alone) to 1 (teacher alone).

    Raises:
        InputError: one of them is out of range.
    """

    needs_teacher = True

    def __init__(self, temperature: float = 4.0, alpha: float = 0.5) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)
        self.alpha = fraction("alpha", alpha)

    def forward(
        self, student: Features, teacher: Features | None, targets: Tensor, indices: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `Objective.forward`.

        Raises:
            InputError: there is no teacher, or it has another number of classes.
        """
        expected = self.required(teacher).logits
        if expected.shape != student.logits.shape:
            raise InputError(f"model.teacher: has {expected.shape[-1]} classes, the student {student.logits.shape[-1]}")
        return {
            "cross_entropy": (1 - self.alpha) * functional.cross_entropy(student.logits, targets),
            "logit": self.alpha * soft_divergence(student.logits, expected, self.temperature),
        }


class ShuffledLogitDistillation(LogitDistillation):
    """`cross_entropy` and `logit`, from a teacher whose other classes are permuted at random, anew for every image.

    The control that separates similarity from softness (Han et al. ask whether it is the teacher's knowledge of similar
    classes that helps): the probability of the correct class and the entropy are the teacher's, which other classes are
    probable is random.
    """

    def forward(
        self, student: Features, teacher: Features | None, targets: Tensor, indices: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `LogitDistillation.forward`."""
        given = self.required(teacher)
        return super().forward(student, Features(shuffle_others(given.logits, targets), given.maps), targets, indices)


def shuffle_others(logits: Tensor, targets: Tensor) -> Tensor:
    """Return logits [b, c] with those of all classes but the target [b] permuted at random, independently per row."""
    place = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = place + (place >= targets[:, None])
    order = torch.rand(others.shape, device=logits.device).argsort(1)
    return logits.scatter(1, others, logits.gather(1, others.gather(1, order)))
