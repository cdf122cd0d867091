"""Measures of classifiers on labelled images: which images they read, and the network on pixels.

Shapes: b images of h x w pixels, c classes.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from introspect.core.errors import InputError
from introspect.core.inference import chosen_device, evaluating, moved
from introspect.dissection.measures.base import PublishedMeasure, Result
from introspect.dissection.options import whole_number
from introspect.vision.datasets.base import SPLITS, ImageSet, collate


class Batch(NamedTuple):
    """Some images.

    Attributes:
        images: uint8 [b, 3, h, w].
        classes: int64 [b].
        truths: what matters, float32 [b, h, w], see `ImageSet.explained`; None where it was not read.
    """

    images: Tensor
    classes: Tensor
    truths: Tensor | None


class Reader:
    """Batches of images of a split, drawn at random without repetition, the same ones for the same seed.

    Args:
        data: the image set.
        split: train, validation or test.
        limit: number of images; None takes all, in their order.
        batch_size: images in a batch.
        num_workers: processes that read them; 0 reads in this one.
        seed: of the choice of images.
        truths: whether to read what matters in them.

    Raises:
        InputError: an option is impossible, there are no images, or no truths where they are wanted.
    """

    def __init__(
        self,
        data: ImageSet,
        *,
        split: str = "test",
        limit: int | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        truths: bool = False,
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"split={split}: expected {', '.join(SPLITS)}")
        if limit is not None:
            whole_number("limit", limit, 1)
        found: Any = (data.explained if truths else data.fixed)(split)
        if len(found) == 0:
            raise InputError(f"data={data.name}: there are no {split} images")
        if limit is not None and limit < len(found):
            chosen = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:limit]
            found = Subset(found, chosen.sort().values.tolist())
        self.images = found
        self._loader = DataLoader(
            found,
            batch_size=whole_number("batch_size", batch_size, 1),
            num_workers=whole_number("num_workers", num_workers, 0),
            collate_fn=collate,
        )

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for images, classes, *truths in self._loader:
            yield Batch(images, torch.as_tensor(classes), truths[0] if truths else None)


class PixelNetwork(nn.Module):
    """A classifier of pixels from 0 to 1, so that gradients are those of pixels."""

    def __init__(self, network: nn.Module, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.prepare = network, prepare

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits [b, c] of float [b, 3, h, w]."""
        logits: Tensor = self.network(self.prepare(pixels * 255))  # a product, which may be changed in place
        return logits


@contextmanager
def frozen(network: nn.Module, device: torch.device) -> Iterator[torch.device]:
    """Keep a network on a device, in evaluation mode, its weights without gradients; restore it afterwards."""
    wanted = {parameter: parameter.requires_grad for parameter in network.parameters()}
    try:
        network.requires_grad_(False)
        with evaluating(network), moved(network, device):
            yield device
    finally:
        for parameter, grad in wanted.items():
            parameter.requires_grad_(grad)


def check_logits(logits: Tensor, data: ImageSet) -> Tensor:
    """Return the logits, if there are as many as classes.

    Raises:
        InputError: the network was made for other classes.
    """
    if logits.ndim != 2 or logits.shape[1] != data.classes:
        raise InputError(
            f"data={data.name} has {data.classes} classes, the network puts out {list(logits.shape[1:])}: give the "
            "data set that it was trained on, such as data=cells"
        )
    return logits


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageMeasure(PublishedMeasure):
    """A measure of a classifier on labelled images.

    Attributes:
        data: images with classes.
    """

    data: ImageSet

    def reader(self, split: str, limit: int | None, *, truths: bool = False) -> Reader:
        """Read images of a split in batches; see `Reader`."""
        sizes = {"batch_size": self.batch_size, "num_workers": self.num_workers}
        return Reader(self.data, split=split, limit=limit, seed=self.seed, truths=truths, **sizes)

    @contextmanager
    def pixel_network(self) -> Iterator[tuple[PixelNetwork, torch.device]]:
        """Run the network on pixels, on its device, with frozen weights."""
        network = self.network.module
        with frozen(network, chosen_device(self.device)) as device:
            yield PixelNetwork(network, self.prepare()), device


@dataclass(frozen=True)
class ImageResult(Result, ABC):
    """The result of a measure of a classifier on labelled images.

    Attributes:
        network: name of the network.
        checkpoint: where its weights come from.
        data: name of the image set.
    """

    network: str
    checkpoint: str
    data: str

    def settings(self) -> dict[str, Any]:
        """See `Result`."""
        return {"network": self.network, "checkpoint": self.checkpoint, "data": self.data}


class FirstImages:
    """The first images of a pass with what belongs to them, for a figure.

    Args:
        wanted: number of images.
    """

    def __init__(self, wanted: int) -> None:
        self._missing = whole_number("examples", wanted, 1)
        self._parts: list[tuple[Tensor, ...]] = []

    def add(self, *parts: Tensor) -> None:
        """Take in a batch: tensors of b entries each."""
        if self._missing > 0:
            self._parts.append(tuple(part[: self._missing].clone() for part in parts))
            self._missing -= len(self._parts[-1][0])

    def tensors(self) -> tuple[Tensor, ...]:
        """Return what was kept, in the order of `add`'s arguments."""
        return tuple(torch.cat(parts) for parts in zip(*self._parts, strict=True))
