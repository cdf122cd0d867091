"""A cache of activations and annotations between the two passes over the images, in temporary files."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from introspect.core.errors import InputError
from introspect.dissection.tally import PIXELS, Annotation

_HEADER = struct.Struct("<6q")


class ActivationCache:
    """Activations and annotations of images, in the order in which they were added, until it is closed.

    The file system keeps them in spare memory if it has any; the process itself holds one batch at a time.

    Args:
        folder: where the files are; None takes the system's folder for temporary files. A float32 per activation and
            one or two bytes per pixel of a mask are needed.

    Raises:
        InputError: the files cannot be made there, or, when something is added, the disk is full.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = Path(tempfile.gettempdir() if folder is None else folder)
        self._maps: dict[str, _Maps] = {}
        self._offsets: list[int] = []
        self._end = 0
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._annotations = _temporary_file(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for maps in self._maps.values():
            maps.file.close()
        self._annotations.close()

    def check_space(self, images: int, total: int) -> None:
        """Compare the space that `total` images will take with what the disk has, after the first `images` of them.

        Raises:
            InputError: the disk has less.
        """
        written = self._end + sum(maps.end for maps in self._maps.values())
        needed = written * (total - images) // images
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise InputError(
                f"cache_dir={self._folder}: the temporary files need {needed / 1e9:.1f} GB more, and the disk has "
                f"{free / 1e9:.1f} GB: give a folder on a larger one, or fewer images or layers"
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"cache_dir={self._folder}: the temporary files cannot be written: {reason}") from error

    def add_maps(self, layer: str, activations: Tensor) -> None:
        """Add the activations of more images, float32 [b, u, h, w]; u, h, w stay the same for a layer."""
        with self._writing():
            if layer not in self._maps:
                self._maps[layer] = _Maps(self._folder, tuple(activations.shape[1:]))
            self._maps[layer].add(activations)

    def maps(self, layer: str, start: int, stop: int) -> Tensor:
        """Read the activations of images start … stop - 1, float32 [b, u, h, w]."""
        return self._maps[layer].read(start, stop)

    def add_annotation(self, annotation: Annotation) -> None:
        """Add the annotation of one more image."""
        pixels, labels, scalars = annotation.pixels, annotation.labels, annotation.scalars
        header = _HEADER.pack(*annotation.size, pixels.itemsize, *labels.shape, len(scalars))
        content = b"".join([header, *(part.tobytes() for part in (pixels, labels, annotation.counts, scalars))])
        with self._writing():
            _write(self._annotations, content)
        self._offsets.append(self._end)
        self._end += len(content)

    def annotation(self, index: int) -> Annotation:
        """Read the annotation of an image."""
        file = self._annotations
        file.seek(self._offsets[index])
        height, width, itemsize, combinations, layers, scalars = _HEADER.unpack(file.read(_HEADER.size))
        kind = next(kind for kind in PIXELS if np.dtype(kind).itemsize == itemsize)
        pixels = np.frombuffer(file.read(height * width * itemsize), kind)
        numbers = np.frombuffer(file.read(8 * (combinations * (layers + 1) + scalars)), np.int64)
        labels, counts, whole = np.split(numbers, [combinations * layers, combinations * (layers + 1)])
        return Annotation((height, width), pixels, labels.reshape(combinations, layers), counts, whole)


class _Maps:
    """The file of one layer; `shape` is (u, h, w), `end` how many bytes there are."""

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.end = 0
        self.file = _temporary_file(folder)

    def add(self, activations: Tensor) -> None:
        content = activations.contiguous().numpy()
        _write(self.file, content.reshape(-1).view(np.uint8).data)
        self.end += content.nbytes

    def read(self, start: int, stop: int) -> Tensor:
        values = int(np.prod(self.shape))
        self.file.seek(4 * start * values)
        found = np.fromfile(self.file, np.float32, (stop - start) * values)
        return torch.from_numpy(found.reshape(-1, *self.shape))


def _temporary_file(folder: Path) -> FileIO:
    """A nameless file without a buffer, which would fail once more when it is closed on a full disk."""
    return tempfile.TemporaryFile(buffering=0, dir=folder)


def _write(file: FileIO, content: bytes | memoryview) -> None:
    """Append all of it; the system may take it in parts."""
    file.seek(0, 2)
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
