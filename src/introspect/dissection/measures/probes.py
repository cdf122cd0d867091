"""Probes: fresh networks that are trained on what is left of images, and tested on what is left of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from introspect.core.errors import InputError
from introspect.dissection.measures.images import check_logits
from introspect.dissection.measures.masking import RankedImages, Side, keep
from introspect.dissection.options import whole_number
from introspect.vision.datasets.base import ImageSet, collate


@dataclass(frozen=True, slots=True)
class ProbeTraining:
    """How a probe is trained: with SGD and a cosine schedule down to 0.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step.
        lr: learning rate at the start.
        momentum: of SGD.
        weight_decay: of SGD.

    Raises:
        InputError: a number is impossible.
    """

    epochs: int = 5
    batch_size: int = 32
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        whole_number("training.epochs", self.epochs, 1)
        whole_number("training.batch_size", self.batch_size, 2)
        if not self.lr > 0 or not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise InputError(
                f"training: lr={self.lr}, momentum={self.momentum}, weight_decay={self.weight_decay}: expected more "
                "than 0, 0 to below 1, and from 0"
            )


class Probe(Protocol):
    """Builds networks that are trained from scratch, such as `introspect.vision.backbones.Backbone`."""

    @property
    def name(self) -> str:
        """Name of the network, for reports."""
        ...

    def build(self) -> nn.Module:
        """Build a network with random weights."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """What probes are trained and tested on, see `masking.keep`.

    Attributes:
        data: the image set.
        train: ranked training images.
        test: ranked test images.
        fill: what hidden values become.
        prepare: preprocessing of the pixels.
        device: where probes are trained.
    """

    data: ImageSet
    train: RankedImages
    test: RankedImages
    fill: float
    prepare: Callable[[Tensor], Tensor]
    device: torch.device


def predictive_power(
    probe: Probe, task: Task, fraction: float, side: Side, training: ProbeTraining, seed: int
) -> float:
    """Train a fresh probe on what is left of the training images; return its accuracy on the test images.

    Args:
        probe: builds it.
        task: the images.
        fraction: fraction of the values that is left, in both.
        side: which values are left.
        training: how it is trained.
        seed: of the weights and of the order of the images.

    Raises:
        InputError: the loss is not finite, or the probe has other classes.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = probe.build().to(task.device)
    _train(network, task, fraction, side, training, seed)
    network.eval()
    right = seen = 0
    with torch.no_grad():
        for images, classes in _batches(task, task.test, fraction, side, training.batch_size):
            right += int((network(images).argmax(1) == classes).sum())
            seen += len(classes)
    return right / seen


def _train(network: nn.Module, task: Task, fraction: float, side: Side, training: ProbeTraining, seed: int) -> None:
    optimizer = torch.optim.SGD(
        network.parameters(), training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )
    steps = max(1, len(task.train) // training.batch_size) * training.epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    for _ in range(training.epochs):
        for images, classes in _batches(task, task.train, fraction, side, training.batch_size, generator):
            loss = functional.cross_entropy(check_logits(network(images), task.data), classes)
            if not loss.isfinite():
                raise InputError(f"training.lr={training.lr}: the training of a probe diverged: give it a smaller one")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _batches(
    task: Task,
    images: RankedImages,
    fraction: float,
    side: Side,
    batch_size: int,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read what is left of the images, prepared, with their classes; for training in random order and full batches."""
    loader = DataLoader(
        images,
        batch_size=batch_size,
        shuffle=generator is not None,
        generator=generator,
        drop_last=generator is not None and len(images) >= batch_size,
        collate_fn=collate,
    )
    for pixels, classes, ranked in loader:
        left = keep(pixels.to(task.device), ranked.to(task.device), fraction, side, task.fill)
        yield task.prepare(left), classes.to(task.device)
