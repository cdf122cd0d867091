"""A teacher's logits of all training images, on disk, for images that have the same pixels in every epoch.

Shapes: n training images, b of a batch, c classes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from introspect.core.errors import InputError
from introspect.core.files import replacing
from introspect.core.progress import track
from introspect.distillation.cache import make_once, settings_text
from introspect.distillation.datamodule import ImageDataModule
from introspect.distillation.teacher import Teacher
from introspect.vision.features import features

log = logging.getLogger(__name__)


class TeacherLogits:
    """The logits of one file, float32, memory-mapped, each with a digest of the pixels that is compared.

    Args:
        path: a file of `make_logits`.
        images: n.
        classes: c.

    Raises:
        InputError: there is no such file, or it does not hold so many images and classes.
    """

    def __init__(self, path: Path, images: int, classes: int) -> None:
        self.path = path
        try:
            self._rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise InputError(
                f"model.teacher.cache: {path}: the teacher's logits have not been computed yet: start with python"
                " train.py, in one process"
            ) from error
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"model.teacher.cache: {path}: cannot be read ({error}): remove it") from error
        if self._rows.dtype != _row(classes) or self._rows.shape != (images,):
            raise InputError(
                f"model.teacher.cache: {path}: not the logits of {images} images and {classes} classes: remove it"
            )

    def of(self, images: Tensor, indices: Tensor) -> Tensor:
        """Return the logits float32 [b, c] of training images, uint8 [b, 3, h, w], by index, int64 [b]; on the CPU.

        Raises:
            InputError: the teacher has seen other pixels.
        """
        rows = self._rows[indices.numpy()]
        other = np.flatnonzero(rows["pixels"] != pixel_digests(images))
        if len(other):
            raise InputError(
                f"model.teacher.cache: training image {int(indices[other[0]])} is not the one that the teacher saw"
                f" ({self.path}): remove the file if the images have changed, or set model.teacher.cache=false"
            )
        return torch.from_numpy(np.ascontiguousarray(rows["logits"]))


def check_fixed(data: ImageDataModule) -> None:
    """Refuse an `ImageDataModule` whose training images have other pixels in every epoch.

    Raises:
        InputError: naming the options.
    """
    if data.varies:
        raise InputError(
            "model.teacher.cache: training images are shifted, mirrored or cropped, so that the teacher's logits differ"
            " in every epoch; set datamodule.shift=0 datamodule.mirror=false, or model.teacher.cache=false"
        )


def logits_file(
    teacher: Teacher, network: nn.Module, data: ImageDataModule, trainer: Trainer, normalization: Any
) -> Path:
    """Return the file of a teacher's logits; its name depends on the weights and on all settings that decide them."""
    settings = {
        "backbone": asdict(teacher.backbone),
        "data": data.images.identity,
        "normalization": normalization,
        "precision": str(trainer.precision),
        "device": trainer.strategy.root_device.type,
        "pixels": "blake2b",
    }
    digest = hashlib.sha256(settings_text(settings).encode())
    for name, value in network.state_dict().items():
        digest.update(f"{name} {list(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().data)
    return Path(teacher.cache_dir) / f"logits-{digest.hexdigest()[:16]}.npy"


def make_logits(
    teacher: Teacher,
    network: nn.Module,
    data: ImageDataModule,
    trainer: Trainer,
    prepare: Callable[[Tensor, nn.Module], Tensor],
    normalization: Any,
) -> None:
    """Compute and keep a teacher's logits of all training images, if that has not been done; all of them or nothing.

    Args:
        teacher: where its logits are kept.
        network: the teacher itself, with its weights.
        data: the images.
        trainer: of the student; the teacher runs on its device and in its number format.
        prepare: from uint8 images to the inputs of a network.
        normalization: of the pixels, by name or numbers.

    Raises:
        InputError: a logit is not finite, there are not as many as classes, or the file cannot be written.
    """
    path, device = logits_file(teacher, network, data, trainer, normalization), trainer.strategy.root_device

    def compute() -> None:
        converted = trainer.precision_plugin.convert_module(network.to(device))

        def logits(images: Tensor) -> Tensor:
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                return features(converted, prepare(images.to(device), converted)).logits

        log.info("computing the teacher's logits of all training images, once: %s", path)
        with replacing(path, locked=True) as partial:
            _write(partial, logits, data, teacher.backbone.classes)

    try:
        make_once(path, compute)
    except OSError as error:
        raise InputError(f"model.teacher.cache: {path}: cannot be written ({error.strerror or error})") from error


def _write(path: Path, compute: Callable[[Tensor], Tensor], data: ImageDataModule, classes: int) -> None:
    row = _row(classes)
    shape = (len(data.train_classes()),)
    header = {"descr": np.lib.format.dtype_to_descr(row), "fortran_order": False, "shape": shape}
    # Written in order, and not into a memory map: on a full disk that would end in a signal and not in an error.
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for images, _, _ in track(data.train_images(), description="teacher's logits"):
            logits = compute(images).float().cpu()
            if logits.shape[1] != classes or not logits.isfinite().all():
                raise InputError(
                    f"model.teacher.cache: the teacher put out {logits.shape[1]} logits per image, or some not finite; "
                    f"expected {classes} finite ones"
                )
            rows = np.empty(len(logits), row)
            rows["logits"], rows["pixels"] = logits.numpy(), pixel_digests(images)
            file.write(rows.tobytes())


def pixel_digests(images: Tensor) -> np.ndarray[Any, Any]:
    """Return a 64-bit digest of the pixels of each image, int64 [b]; images uint8 [b, …]."""
    digests = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images.numpy()]
    return np.frombuffer(b"".join(digests), "<i8")


def _row(classes: int) -> np.dtype[Any]:
    return np.dtype([("logits", "<f4", (classes,)), ("pixels", "<i8")])
