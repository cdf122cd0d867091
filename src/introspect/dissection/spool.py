"""What the first pass over the images leaves for the second one, in temporary files instead of memory."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from introspect.dissection.tally import PIXELS, Annotation

_HEADER = struct.Struct("<6q")


class Spool:
    """Activations and annotations of images, in the order in which they came; gone when it is closed.

    The file system keeps them in spare memory if it has any; the process itself holds one batch at a time.

    Args:
        folder: where the files are; None takes the system's folder for temporary files. A float32 per activation and
            one or two bytes per pixel of a mask are needed.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._maps: dict[str, _Maps] = {}
        self._annotations = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with the spool
        self._offsets: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for maps in self._maps.values():
            maps.file.close()
        self._annotations.close()

    def add_maps(self, layer: str, activations: Tensor) -> None:
        """Keep the activations of more images, float32 [b, u, h, w]; u, h, w stay the same for a layer."""
        if layer not in self._maps:
            self._maps[layer] = _Maps(self._folder, tuple(activations.shape[1:]))
        activations.contiguous().numpy().tofile(self._maps[layer].file)

    def maps(self, layer: str, start: int, stop: int) -> Tensor:
        """The activations of images start … stop - 1, float32 [b, u, h, w]."""
        return self._maps[layer].read(start, stop)

    def add_annotation(self, annotation: Annotation) -> None:
        """Keep the annotation of one more image."""
        file = self._annotations
        self._offsets.append(file.seek(0, 2))
        pixels, labels, scalars = annotation.pixels, annotation.labels, annotation.scalars
        file.write(_HEADER.pack(*annotation.size, pixels.itemsize, *labels.shape, len(scalars)))
        file.write(b"".join(part.tobytes() for part in (pixels, labels, annotation.counts, scalars)))

    def annotation(self, index: int) -> Annotation:
        """The annotation of an image."""
        file = self._annotations
        file.seek(self._offsets[index])
        height, width, itemsize, combinations, layers, scalars = _HEADER.unpack(file.read(_HEADER.size))
        kind = next(kind for kind in PIXELS if np.dtype(kind).itemsize == itemsize)
        pixels = np.frombuffer(file.read(height * width * itemsize), kind)
        numbers = np.frombuffer(file.read(8 * (combinations * (layers + 1) + scalars)), np.int64)
        labels, counts, whole = np.split(numbers, [combinations * layers, combinations * (layers + 1)])
        return Annotation((height, width), pixels, labels.reshape(combinations, layers), counts, whole)


class _Maps:
    """The file of one layer; `shape` is (u, h, w)."""

    def __init__(self, folder: str | Path | None, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with the spool

    def read(self, start: int, stop: int) -> Tensor:
        values = int(np.prod(self.shape))
        self.file.seek(4 * start * values)
        found = np.fromfile(self.file, np.float32, (stop - start) * values)
        return torch.from_numpy(found.reshape(-1, *self.shape))
