"""Training from scratch: the labels alone."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from introspect.distillation.objectives.base import Features, Objective


class CrossEntropy(Objective):
    """`cross_entropy`: mean over the batch of -log softmax(z)[y], in nats."""

    def forward(
        self, student: Features, teacher: Features | None, targets: Tensor, numbers: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `Objective.forward`."""
        return {"cross_entropy": functional.cross_entropy(student.logits, targets)}
