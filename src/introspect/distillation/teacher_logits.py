"""A teacher's logits of all training images, on disk: one that sees the same pixels each time is asked once.

Shapes: n training images, b of a batch, c classes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from introspect.core.errors import InputError
from introspect.core.files import replacing
from introspect.core.nested import to_plain
from introspect.core.progress import track
from introspect.core.seeds import stream
from introspect.distillation.teacher import Teacher, locked
from introspect.vision.features import features

log = logging.getLogger(__name__)


class TeacherLogits:
    """The logits of one file, float32, memory-mapped; each image has a sum of its pixels beside it, which is compared.

    Args:
        path: a file of `make_logits`.
        images: n.
        classes: c.

    Raises:
        InputError: there is no such file, or it is not one of so many images and classes.
    """

    def __init__(self, path: Path, images: int, classes: int) -> None:
        self.path = path
        try:
            self._rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise InputError(
                f"model.teacher.cache: {path}: the teacher has not been asked yet: begin with python train.py, in one"
                " process"
            ) from error
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"model.teacher.cache: {path}: can not be read ({error}): remove it") from error
        if self._rows.dtype != _row(classes) or self._rows.shape != (images,):
            raise InputError(
                f"model.teacher.cache: {path}: not the logits of {images} images and {classes} classes: remove it"
            )

    def of(self, images: Tensor, numbers: Tensor) -> Tensor:
        """The logits float32 [b, c] of training images, uint8 [b, 3, h, w], by their numbers, int64 [b]; on the CPU.

        Raises:
            InputError: the teacher has seen other pixels.
        """
        rows = self._rows[numbers.numpy()]
        other = np.flatnonzero(rows["pixels"] != pixel_sums(images).numpy())
        if len(other):
            raise InputError(
                f"model.teacher.cache: training image {int(numbers[other[0]])} is not the one that the teacher saw"
                f" ({self.path}): remove the file if the images have changed, or set model.teacher.cache=false"
            )
        return torch.from_numpy(np.ascontiguousarray(rows["logits"]))


def check_fixed(data: Any) -> None:
    """Refuse an `ImageDataModule` whose training images come with other pixels each time.

    Raises:
        InputError: naming the options.
    """
    if data.varies:
        raise InputError(
            "model.teacher.cache: training images are shifted, mirrored or cropped, so that the teacher says something "
            "else each time; set datamodule.shift=0 datamodule.mirror=false, or model.teacher.cache=false"
        )


def logits_file(teacher: Teacher, network: nn.Module, data: Any, trainer: Trainer, normalization: Any) -> Path:
    """The file of a teacher's logits: it changes with its weights, and with the rest that decides what it says."""
    settings = {
        "backbone": to_plain(asdict(teacher.backbone)),
        "data": data.images.identity,
        "normalization": to_plain(normalization),
        "precision": str(trainer.precision),
        "device": trainer.strategy.root_device.type,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in network.state_dict().items():
        digest.update(f"{name} {list(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().data)
    return Path(teacher.cache_dir) / f"logits-{digest.hexdigest()[:16]}.npy"


def make_logits(
    teacher: Teacher,
    network: nn.Module,
    data: Any,
    trainer: Trainer,
    prepare: Callable[[Tensor, nn.Module], Tensor],
    normalization: Any,
) -> None:
    """Ask a teacher about all training images and keep what it says, if that has not been done; all of it or nothing.

    Args:
        teacher: where its logits are kept.
        network: the teacher itself, with its weights.
        data: an `ImageDataModule`.
        trainer: of the student; the teacher runs on its device and in its number format.
        prepare: brings uint8 images to what a network takes.
        normalization: of the pixels, by name or numbers.

    Raises:
        InputError: a logit is not finite, there are not as many as classes, or the file can not be written.
    """
    path, device = logits_file(teacher, network, data, trainer, normalization), trainer.strategy.root_device
    if path.is_file():
        return
    network = trainer.precision_plugin.convert_module(network.to(device))

    def answer(images: Tensor) -> Tensor:
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            return features(network, prepare(images.to(device), network)).logits

    try:
        with locked(path):
            if path.is_file():
                return
            log.info("the teacher is asked once about each training image, and what it says is kept in %s", path)
            with replacing(path, locked=True) as partial:
                _write(partial, answer, data, teacher.backbone.classes)
    except OSError as error:
        raise InputError(f"model.teacher.cache: {path}: can not be written ({error.strerror or error})") from error


def _write(path: Path, answer: Callable[[Tensor], Tensor], data: Any, classes: int) -> None:
    row = _row(classes)
    shape = (len(data.train_classes()),)
    header = {"descr": np.lib.format.dtype_to_descr(row), "fortran_order": False, "shape": shape}
    # Written in order, and not into a map of the file: on a full disk that ends in an error and not in a signal.
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for images, _, _ in track(data.train_images(), description="teacher's logits"):
            logits = answer(images).float().cpu()
            if logits.shape[1] != classes or not logits.isfinite().all():
                raise InputError(
                    f"model.teacher.cache: the teacher put out {logits.shape[1]} logits per image, or some not finite; "
                    f"expected {classes} finite ones"
                )
            rows = np.empty(len(logits), row)
            rows["logits"], rows["pixels"] = logits.numpy(), pixel_sums(images).numpy()
            file.write(rows.tobytes())


def pixel_sums(images: Tensor) -> Tensor:
    """A number for each image, int64 [b], that another image has by chance only; uint8 [b, …].

    Each eight bytes are a number; their sum, each times an odd number of its place, modulo 2^64.
    """
    flat = images.flatten(1)
    words = nn.functional.pad(flat, (0, -flat.shape[1] % 8)).contiguous().view(torch.int64)
    return (words * _factors(words.shape[1])).sum(1)


@lru_cache(maxsize=8)
def _factors(count: int) -> Tensor:
    return stream(torch.zeros(count, dtype=torch.int64), torch.arange(count)) | 1


def _row(classes: int) -> np.dtype[Any]:
    return np.dtype([("logits", "<f4", (classes,)), ("pixels", "<i8")])
