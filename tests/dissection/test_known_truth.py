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


def excess(planted: int) -> tuple[int, float]:
    """Detectors of 64 random units, and by how many deviations of its rotations the layer exceeds their mean.

    Normal weights without bias are as likely as any rotation of them, so that the layer is one of its controls, but for
    the first units if some are planted: these see red or green, and so faintly that the rotations hardly do.
    """
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 64, 3, 2, bias=False))
    weights = torch.randn(64, 3, 3, 3, generator=generator)
    red_and_green = torch.tensor([[2.0, -1, -1], [-1, 2, -1]])
    weights[:planted] = 0.02 * red_and_green.repeat(32, 1)[:planted, :, None, None]
    with torch.no_grad():
        network[0].weight.copy_(weights)
    plain, *rotated = dissect(
        network,
        ["0"],
        ShapeworldConcepts(size=100),
        quantile=0.01,
        iou_threshold=0.08,
        preprocessing="imagenet",
        controls=["rotation"],
        rotations=8,
        progress=False,
    ).values()
    total = plain.summary()["total"]
    chance = torch.tensor([float(control.summary()["total"]) for control in rotated])
    return total, float((total - chance.mean()) / chance.std())


def test_a_random_network_is_like_its_rotations_and_a_few_real_detectors_are_not() -> None:
    total, deviations = excess(planted=0)
    assert total >= 20
    assert abs(deviations) < 2.5
    assert excess(planted=24)[1] > 4
