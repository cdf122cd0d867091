"""Label smoothing (Szegedy et al. 2016, arXiv 1512.00567, section 7): the control of logit distillation.

With temperature 1 the only difference between the two is what stands beside the label: the teacher's probabilities,
which say which classes are alike, or the same number for every class (Han et al. 2023, arXiv 2305.15734).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from introspect.distillation.objectives.base import Objective, share
from introspect.vision.features import Features


class LabelSmoothing(Objective):
    """`label_smoothing`: cross-entropy with the target (1 - smoothing) onehot + smoothing / c, mean over the batch.

    Args:
        smoothing: share of the target that is spread over all c classes, the right one too.

    Raises:
        InputError: it is not from 0 to 1.
    """

    def __init__(self, smoothing: float = 0.1) -> None:
        super().__init__()
        self.smoothing = share("smoothing", smoothing)

    def forward(
        self, student: Features, teacher: Features | None, targets: Tensor, numbers: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `Objective.forward`."""
        loss = functional.cross_entropy(student.logits, targets, label_smoothing=self.smoothing)
        return {"label_smoothing": loss}
