"""shapeworld, whose every pixel is known: what a network is made to see is found in it, and chance in a random one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from introspect.dissection.concepts.shapeworld import ShapeworldConcepts
from introspect.dissection.engine import dissect


class Seer(nn.Module):
    """Knows the images: its units are the masks of these labels, at the masks' own resolution."""

    def __init__(self, concepts: ShapeworldConcepts, labels: list[int]) -> None:
        super().__init__()
        self.units = nn.Identity()
        self.known = {}
        for item in (concepts[index] for index in range(len(concepts))):
            self.known[item.image.numpy().tobytes()] = torch.stack(
                [(item.pixels == label).any(0).float() for label in labels]
            )

    def forward(self, images: Tensor) -> Tensor:
        return self.units(torch.stack([self.known[image.numpy().tobytes()] for image in images]))


def test_units_that_are_masks_of_concepts_are_found() -> None:
    concepts = ShapeworldConcepts(size=40)
    pixels = torch.zeros(len(concepts.labels), dtype=torch.int64)
    total = 0
    for index in range(len(concepts)):
        layers = concepts[index].pixels
        pixels += torch.bincount(layers.flatten(), minlength=len(pixels))
        total += layers[0].numel()
    pixels[0] = 0
    quantile = 0.25
    # Binary units are active above a threshold of 0, so the concepts must take less than the quantile.
    labels = ((pixels > 0) & (pixels < 0.9 * quantile * total)).nonzero().flatten().tolist()
    assert len({concepts.labels[label].category for label in labels}) >= 3
    found = dissect(
        Seer(concepts, labels), ["units"], concepts, quantile=quantile, preprocessing=lambda x: x, progress=False
    )["units"]
    own = found.iou[torch.arange(len(labels)), torch.tensor(labels)]
    torch.testing.assert_close(own, torch.ones_like(own), rtol=0, atol=1e-9)
    assert (found.best.iou > 1 - 1e-9).all()


def test_a_random_network_is_near_its_control() -> None:
    concepts = ShapeworldConcepts(size=100)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 64, 3, 2), nn.ReLU())
    plain, rotated = dissect(
        network, ["2"], concepts, preprocessing="imagenet", controls=["rotation"], progress=False
    ).values()
    assert abs(float(plain.best.iou.mean() - rotated.best.iou.mean())) < 0.005
    assert abs(plain.summary()["total"] - rotated.summary()["total"]) <= 6
