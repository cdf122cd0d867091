"""The images of a classifier's training, in batches.

Shapes: b images of h x w pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, default_collate

from introspect.distillation.datasets.base import ImageSet, Sample, Split
from introspect.errors import InputError


class ImageDataModule(LightningDataModule):
    """Serves uint8 images [b, 3, h, w] and classes [b]; training images are shifted and mirrored on the way.

    Args:
        images: where they come from.
        batch_size: images per step and device.
        shift: pixels by which a training image is moved at most, in each direction, zeros coming in (the usual
            padded crop of CIFAR); 0 moves none.
        mirror: whether half of the training images are mirrored left to right.
        num_workers: processes that read images; 0 reads them in the training process.
        seed: of the order of training and of what happens to each image.

    Raises:
        InputError: a setting is impossible.
    """

    def __init__(
        self,
        *,
        images: ImageSet,
        batch_size: int = 128,
        shift: int = 4,
        mirror: bool = True,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or shift < 0:
            raise InputError(f"datamodule: batch_size={batch_size}, shift={shift}: expected at least 1 and 0")
        self.images, self.batch_size, self.shift, self.mirror = images, batch_size, shift, mirror
        self.num_workers, self.seed = num_workers, seed
        self._loaded: dict[str, Dataset[Sample]] = {}

    @property
    def identity(self) -> str:
        """Everything that decides what a network is trained on."""
        return f"{self.images.identity}; shift {self.shift}, mirror {self.mirror}, batches of {self.batch_size}"

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches in an order that the seed and the epoch decide."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        numbers = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        return self._loader("train", shuffle=True, generator=numbers, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Held-out batches."""
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches."""
        return self._loader("test")

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment what is trained on, where the batch then lies."""
        if self.trainer is None or not self.trainer.training:
            return batch
        images, targets = batch
        return augment(images, self.shift, self.mirror), targets

    def _loader(self, split: Split, **options: Any) -> DataLoader[Any]:
        if split not in self._loaded:
            self._loaded[split] = self.images.load(split)
        data = self._loaded[split]
        if len(data) < (self.batch_size if split == "train" else 1):  # type: ignore[arg-type]
            raise InputError(f"{self.images.name}: {len(data)} {split} images, fewer than a batch")  # type: ignore[arg-type]
        return DataLoader(
            data,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=_collate,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            **options,
        )


def _collate(samples: Any) -> Any:
    """Batches that were read at once are collated already."""
    return samples if isinstance(samples, tuple) else default_collate(samples)


def augment(images: Tensor, shift: int, mirror: bool) -> Tensor:
    """Move each image [b, c, h, w] by up to `shift` pixels, zeros coming in, and mirror half of them."""
    count, _, height, width = images.shape
    device = images.device
    if shift:
        padded = functional.pad(images, (shift, shift, shift, shift))
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [b, c, 2 shift + 1, 2 shift + 1, h, w]
        down, right = torch.randint(2 * shift + 1, (2, count), device=device)
        images = windows[torch.arange(count, device=device), :, down, right]
    if mirror:
        mirrored = torch.rand(count, device=device) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return images
