"""Ranking the values of images by an attribution, and hiding the highest or the lowest of them.

Shapes: b images of 3 channels and h x w pixels, d = 3 h w values of each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from introspect.dissection.measures.images import Batch
from introspect.vision.datasets.base import BatchedImages, read_batch

Side = Literal["top", "bottom"]
SIDES: tuple[Side, Side] = ("top", "bottom")


def ranks(magnitudes: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Rank each value among those of its image, the lowest first; equal ones in random order.

    Args:
        magnitudes: [b, …], of d values each.
        generator: of the order of equal values, on the CPU.

    Returns:
        0 to d - 1, int64 [b, d].
    """
    flat = magnitudes.flatten(1)
    count = flat.shape[1]
    # Sorted as they stand, equal values would be ranked by their place in the image.
    shuffle = torch.randperm(count, generator=generator).to(flat.device)
    order = shuffle[flat[:, shuffle].argsort(dim=1, stable=True)]
    return torch.empty_like(order).scatter_(1, order, torch.arange(count, device=flat.device).expand_as(order))


def keep(images: Tensor, ranked: Tensor, fraction: float, side: Side, fill: float) -> Tensor:
    """Keep a fraction of the values of images, and replace all others by one constant.

    Args:
        images: [b, 3, h, w].
        ranked: as `ranks` gives them, [b, d].
        fraction: fraction of the d values that is left, 0 to 1.
        side: which values are left: those ranked highest (top) or lowest (bottom).
        fill: the constant.

    Returns:
        float32 [b, 3, h, w].
    """
    count = ranked.shape[1]
    left = round(fraction * count)
    hidden = ranked < count - left if side == "top" else ranked >= left
    return images.float().masked_fill(hidden.view(images.shape), fill)


class RankedImages(BatchedImages):
    """Images with their classes and the ranks of their values, read in batches: (images, classes, ranks [b, d])."""

    def __init__(self, images: Dataset[Any], ranked: np.memmap[Any, Any]) -> None:
        self._images, self._ranked = images, ranked

    def __len__(self) -> int:
        return len(self._ranked)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Read a batch, collated."""
        images, classes = read_batch(self._images, indices)
        return images, torch.as_tensor(classes), torch.from_numpy(self._ranked[indices].astype(np.int64))


class RankFile:
    """Temporary files with the ranks of all images, for a `with`: memory does not grow with the number of images.

    Args:
        folder: where they are; None takes the system's.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-", dir=folder, ignore_cleanup_errors=True)
        self._files = 0

    def __enter__(self) -> RankFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def fill(
        self, batches: Iterable[Batch], images: Dataset[Any], attribute: Callable[[Batch], Tensor], seed: int
    ) -> tuple[RankedImages, float]:
        """Rank all images by the magnitude of an attribution.

        Args:
            batches: of the images, in their order.
            images: the same, as a data set.
            attribute: gives [b, 3, h, w] of a batch.
            seed: of the order of equal values.

        Returns:
            The images with their ranks, and the mean of all their values.
        """
        generator = torch.Generator().manual_seed(seed)
        stored: np.memmap[Any, Any] | None = None
        total, start, count = 0.0, 0, len(images)  # type: ignore[arg-type]
        for batch in batches:
            found = ranks(attribute(batch).abs(), generator).cpu().numpy()
            if stored is None:
                kind = np.uint16 if found.shape[1] <= 2**16 else np.uint32
                self._files += 1
                path = Path(self._folder.name) / f"{self._files}.bin"
                stored = np.memmap(path, dtype=kind, mode="w+", shape=(count, found.shape[1]))
            stored[start : start + len(found)] = found
            start += len(found)
            total += float(batch.images.double().mean()) * len(found)
        assert stored is not None
        return RankedImages(images, stored), total / count
