"""Logit distillation (Hinton, Vinyals and Dean 2015, arXiv 1503.02531)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from introspect.core.errors import InputError
from introspect.distillation.objectives.base import Objective, positive, share
from introspect.vision.features import Features


class LogitDistillation(Objective):
    """`cross_entropy`: (1 - alpha) CE(y, z_s). `logit`: alpha T² KL(softmax(z_t / T) || softmax(z_s / T)).

    Alpha weighs the *teacher's* side, as Han et al. (2023, arXiv 2305.15734) write it; in torchdistill and its
    descendants the alpha of a config weighs the labels' side. T² keeps the size of the gradients when T changes and is
    applied whatever alpha is (theirs drops it at alpha = 0). The KL is summed over classes and averaged over the batch.

    Args:
        temperature: T, more than 0.
        alpha: share of the teacher, from 0 (labels alone) to 1 (teacher alone).

    Raises:
        InputError: one of them is out of range.
    """

    needs_teacher = True

    def __init__(self, temperature: float = 4.0, alpha: float = 0.5) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)
        self.alpha = share("alpha", alpha)

    def forward(
        self, student: Features, teacher: Features | None, targets: Tensor, numbers: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `Objective.forward`.

        Raises:
            InputError: there is no teacher, or it tells apart another number of classes.
        """
        if teacher is None:
            raise InputError("objective: logit distillation needs a teacher: give model.teacher")
        if teacher.logits.shape != student.logits.shape:
            raise InputError(
                f"model.teacher: tells {teacher.logits.shape[-1]} classes apart, the student {student.logits.shape[-1]}"
            )
        return {
            "cross_entropy": (1 - self.alpha) * functional.cross_entropy(student.logits, targets),
            "logit": self.alpha * soft_divergence(student.logits, teacher.logits, self.temperature),
        }


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(softmax(teacher / T) || softmax(student / T)) in nats, summed over classes, mean over the batch; [b, c]."""
    log_student = functional.log_softmax(student / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


class ShuffledLogitDistillation(LogitDistillation):
    """`cross_entropy` and `logit`, from a teacher whose other classes are permuted at random, anew for every image.

    The control that tells similarity from softness (Han et al. ask whether it is the teacher's knowledge of which
    classes are alike that helps): the probability of the right class and the entropy are the teacher's, which classes
    are probable beside it is chance.
    """

    def forward(
        self, student: Features, teacher: Features | None, targets: Tensor, numbers: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `LogitDistillation.forward`."""
        shuffled = None if teacher is None else Features(shuffle_others(teacher.logits, targets), teacher.maps)
        return super().forward(student, shuffled, targets, numbers)


def shuffle_others(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits [b, c], those of all classes but the target [b] permuted at random, each row in its own way."""
    place = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = place + (place >= targets[:, None])
    order = torch.rand(others.shape, device=logits.device).argsort(1)
    return logits.scatter(1, others, logits.gather(1, others.gather(1, order)))
