"""Concept data sets and dissections made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from introspect.dissection.concepts.base import Annotated, Label, primary_categories
from introspect.dissection.result import Dissection
from introspect.dissection.tally import Counts


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


def dissection(
    concepts: Made, intersections: Tensor, areas: Tensor, label_pixels: Tensor | None = None, **others: Any
) -> Dissection:
    """A dissection with these counts of `Counts`; areas are those by category."""
    pixels = torch.zeros(len(concepts.labels), dtype=torch.int64) if label_pixels is None else label_pixels
    given: dict[str, Any] = {
        "layer": "layer3",
        "images": len(concepts),
        "thresholds": torch.ones(len(areas), dtype=torch.float64),
        "quantile": 0.005,
        "iou_threshold": 0.05,
        "presence": "lite",
    }
    return Dissection(
        counts=Counts(intersections, areas.sum(1), areas, pixels),
        concepts=concepts.name,
        labels=tuple(concepts.labels),
        categories=concepts.categories,
        primary=concepts.primary,
        **{**given, **others},
    )
