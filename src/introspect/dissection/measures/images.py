"""What the measures look at: labelled images, and of some of them what matters in each.

Shapes: b images of h x w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from introspect.core.errors import InputError
from introspect.core.inference import evaluating, moved
from introspect.dissection.rules import whole_number

SPLITS = ("train", "validation", "test")


class LabelledImages(Protocol):
    """A data set of images with classes, such as those of `introspect.vision.datasets`.

    One whose training images come with other pixels each time also has `fixed`, which gives the same ones each time; it
    is taken then. One that knows what matters in its images also has `explained`, with the same arguments and in the
    same order. Its items have a third part, the truth, float [h, w]: 0.9 where something tells the class, 0.4 on the
    rest of the object, 0 elsewhere.
    """

    name: str
    classes: int

    def load(self, split: Any) -> Dataset[Any]:
        """The images of a split, each uint8 [3, h, w] with its class number."""
        ...


class Batch(NamedTuple):
    """Some images: uint8 [b, 3, h, w], classes int64 [b], truths float32 [b, h, w] or None."""

    images: Tensor
    classes: Tensor
    truths: Tensor | None


class Reader:
    """Some images of a split, drawn at random without repetition, the same ones for the same seed; in batches.

    Args:
        data: where they come from.
        split: train, validation or test.
        limit: how many; None takes all, in their order.
        batch_size: of them at once.
        num_workers: processes that read them; 0 reads in this one.
        seed: which ones.
        truths: whether what matters in them is read too.

    Raises:
        InputError: an option is impossible, there are no images, or no truths where they are wanted.
    """

    def __init__(
        self,
        data: LabelledImages,
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
        if truths and not has_truths(data):
            raise InputError(
                f"data={data.name}: nothing says which pixels matter; data=cells and data=shapeworld do, for a network "
                "that was trained on them"
            )
        if limit is not None:
            whole_number("limit", limit, 1)
        found: Any = data.explained(split) if truths else getattr(data, "fixed", data.load)(split)  # type: ignore[attr-defined]
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
        """How many batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for images, classes, *truths in self._loader:
            yield Batch(images, torch.as_tensor(classes), truths[0] if truths else None)


def has_truths(data: LabelledImages) -> bool:
    """Whether the data set knows what matters in its images."""
    return callable(getattr(data, "explained", None))


def collate(samples: Any) -> Any:
    """Batches that were read at once are collated already."""
    return samples if isinstance(samples, tuple) else default_collate(samples)


class PixelNetwork(nn.Module):
    """A classifier that takes in pixels from 0 to 1, so that gradients are those of pixels."""

    def __init__(self, network: nn.Module, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.prepare = network, prepare

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [b, classes] of float [b, 3, h, w]."""
        logits: Tensor = self.network(self.prepare(pixels * 255))  # a product, which may be changed in place
        return logits


@contextmanager
def measured(network: nn.Module, device: torch.device) -> Iterator[torch.device]:
    """The network on a device, in evaluation mode, its weights without gradients; then as it was."""
    wanted = {parameter: parameter.requires_grad for parameter in network.parameters()}
    try:
        network.requires_grad_(False)
        with evaluating(network), moved(network, device):
            yield device
    finally:
        for parameter, grad in wanted.items():
            parameter.requires_grad_(grad)


def check_logits(logits: Tensor, data: LabelledImages) -> Tensor:
    """The logits, if there are as many as classes.

    Raises:
        InputError: the network was made for other classes.
    """
    if logits.ndim != 2 or logits.shape[1] != data.classes:
        raise InputError(
            f"data={data.name} has {data.classes} classes, the network puts out {list(logits.shape[1:])}: give the "
            "data set that it was trained on, such as data=cells"
        )
    return logits
