"""Which classes a classifier finds alike, and whether a student finds the same as its teacher.

Han et al. (2023, arXiv 2305.15734) report an "entropy of the output within the same category" without its definition.
Ours: of an image whose class has a group (shapeworld's families, CIFAR-100's coarse labels, a level of WordNet), the
entropy of the class probabilities within the group, which are made to sum to 1; in nats, mean over the images. It is
high where the members of a group are alike, and is not touched by what happens between groups, as an entropy over all
classes would be.

Shapes: b images, c classes, g groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from introspect.core.errors import InputError


class ClassSimilarity(Metric):
    """Similarity of classes by the logits of a network, beside those of another; memory does not grow with the images.

    `compute` gives, as far as there is something to compute it from:

    - `entropy`: within groups, see the module; of images whose group has two classes or more;
    - `cka`: linear centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414) of the logits of the two, 0 to 1;
    - `rank_correlation`: Spearman's, of the similarities of all pairs of different classes, -1 to 1. The similarity of
      class j to class i is the mean logit of j, less the mean over all classes, of the images of class i.

    Args:
        groups: the group of each class, [c]; empty where there are none.
        classes: c.

    Raises:
        InputError: there are groups, but not for each class.
    """

    full_state_update = False
    entropy: Tensor
    grouped: Tensor
    images: Tensor
    sums: Tensor
    products: Tensor
    by_class: Tensor

    def __init__(self, groups: Sequence[int], classes: int) -> None:
        super().__init__()
        if groups and len(groups) != classes:
            raise InputError(f"data: {len(groups)} classes have a group, there are {classes}")
        number = torch.tensor(groups, dtype=torch.int64) if groups else torch.arange(classes)
        self.register_buffer("alike", number[:, None] == number, persistent=False)
        shapes = {"entropy": (), "grouped": (), "images": (classes,), "sums": (2, classes)}
        shapes |= {"products": (3, classes, classes), "by_class": (2, classes, classes)}
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, other: Tensor | None, targets: Tensor) -> None:
        """Take in a batch.

        Args:
            logits: of the network, [b, c].
            other: of the network that it is compared with, [b, c]; None where there is none.
            targets: class numbers, [b].
        """
        members = self.alike[targets]  # type: ignore[index]
        counts = members.sum(1) > 1
        self.entropy += group_entropy(logits, members)[counts].double().sum()
        self.grouped += counts.sum()
        self.images += targets.bincount(minlength=len(self.images))
        pair = [centred(logits), torch.zeros_like(logits, dtype=torch.float64) if other is None else centred(other)]
        self.sums += torch.stack([one.sum(0) for one in pair])
        self.products += torch.stack([pair[0].T @ pair[0], pair[1].T @ pair[1], pair[0].T @ pair[1]])
        self.by_class += torch.stack([torch.zeros_like(self.by_class[0]).index_add_(0, targets, one) for one in pair])

    def compute(self) -> dict[str, float]:
        """See the class."""
        found = {}
        if self.grouped > 0:
            found["entropy"] = float(self.entropy / self.grouped)
        total = self.images.sum()
        if self.products[1].any():
            means = self.sums / total
            own, other, both = self.products / total - torch.stack(
                [torch.outer(means[a], means[b]) for a, b in ((0, 0), (1, 1), (0, 1))]
            )
            if norms := float(own.norm() * other.norm()):  # 0 of logits that are the same for all images
                found["cka"] = float(both.square().sum()) / norms
            apart = ~torch.eye(len(self.images), dtype=torch.bool, device=both.device)
            apart &= (self.images > 0)[:, None]
            own, other = self.matrices()
            found["rank_correlation"] = rank_correlation(own[apart], other[apart])
        return found

    def matrices(self) -> Tensor:
        """The similarities of class j to class i, [2, c, c] (this network and the other); rows without images are 0."""
        return self.by_class / self.images.clamp(min=1)[:, None]


def centred(logits: Tensor) -> Tensor:
    """Logits [b, c] less their mean over the classes, which changes no probability; float64."""
    return logits.double() - logits.double().mean(1, keepdim=True)


def group_entropy(logits: Tensor, members: Tensor) -> Tensor:
    """Entropy [b], nats, of the probabilities by logits [b, c] among the classes that are members, bool [b, c]."""
    logs = functional.log_softmax(logits.double().masked_fill(~members, -torch.inf), dim=1)
    return -(logs.exp() * logs.masked_fill(~members, 0)).sum(1)


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's rank correlation of two vectors; equal values share their mean rank."""
    pair = torch.stack([_ranks(one), _ranks(other)])
    return float(torch.corrcoef(pair)[0, 1])


def _ranks(values: Tensor) -> Tensor:
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[place]
