"""Objectives on labels alone."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from introspect.distillation.objectives.base import Objective, fraction
from introspect.vision.features import Features


class CrossEntropy(Objective):
    """`cross_entropy`: mean over the batch of -log softmax(z)[y], in nats."""

    def forward(
        self, student: Features, teacher: Features | None, targets: Tensor, indices: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `Objective.forward`."""
        return {"cross_entropy": functional.cross_entropy(student.logits, targets)}


class LabelSmoothing(Objective):
    """`label_smoothing`: cross-entropy with the target (1 - smoothing) onehot + smoothing / c, mean over the batch.

    Szegedy et al. 2016, arXiv 1512.00567, section 7. It is the control of logit distillation: at temperature 1 the two
    differ only in what is added to the label, the same number for every class or the teacher's probabilities, which
    tell which classes are similar (Han et al. 2023, arXiv 2305.15734).

    Args:
        smoothing: fraction of the target that is spread over all c classes, including the correct one.

    Raises:
        InputError: it is not from 0 to 1.
    """

    def __init__(self, smoothing: float = 0.1) -> None:
        super().__init__()
        self.smoothing = fraction("smoothing", smoothing)

    def forward(
        self, student: Features, teacher: Features | None, targets: Tensor, indices: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `Objective.forward`."""
        loss = functional.cross_entropy(student.logits, targets, label_smoothing=self.smoothing)
        return {"label_smoothing": loss}
