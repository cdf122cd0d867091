"""Concept data sets and dissections made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from introspect.dissection.concepts.base import Annotated, Label, primary_categories


class Made:
    """Images whose masks and scalars are given; labels are named after their number and category."""

    def __init__(
        self,
        pixels: Sequence[Tensor],
        scalars: Sequence[Sequence[int]] | None = None,
        categories: dict[str, Sequence[int]] | None = None,
        images: Sequence[Tensor] | None = None,
        names: dict[int, str] | None = None,
    ) -> None:
        self.name = "made"
        self._pixels = pixels
        self._scalars = scalars or [()] * len(pixels)
        self._images = images or [torch.zeros(3, *layers.shape[1:], dtype=torch.uint8) for layers in pixels]
        categories = categories or {"object": range(1, 10)}
        self.categories = tuple(categories)
        count = 1 + max(number for members in categories.values() for number in members)
        coverage = {name: dict.fromkeys(members, 1.0) for name, members in categories.items()}
        self.primary = primary_categories(count, self.categories, coverage)
        self.labels = [
            Label(n, (names or {}).get(n, f"{self.categories[c]}-{n}" if n else ""), self.categories[c])
            for n, c in enumerate(self.primary.tolist())
        ]

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Annotated:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Annotated(self._images[index], self._pixels[index].int(), tuple(self._scalars[index]), f"image {index}")
