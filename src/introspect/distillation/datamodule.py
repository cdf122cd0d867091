"""The images of a classifier's training, in batches.

Shapes: b images of h x w pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset

from introspect.core.distributed import SharedLoader, batches, processes
from introspect.core.errors import InputError
from introspect.core.resuming import EpochLoader, Place, check_same, place
from introspect.core.seeds import derived_seed
from introspect.vision.datasets.base import BatchedImages, ImageSet, Sample, Split, collate, read_batch


class ImageDataModule(LightningDataModule):
    """Serves uint8 images [b, 3, h, w] and classes [b]; training images are shifted and mirrored.

    A training batch also has the indices of its images in the training set, int64 [b], and what `add_to_batch` returns
    for images and indices, if a module has set it; it is called on the CPU, before images are shifted and mirrored.

    Several processes train on the same images, shifted and mirrored in the same way, as one process whose batch is
    theirs together, and evaluate each held-out image once.

    Args:
        images: where they come from.
        batch_size: images per step and device.
        shift: pixels by which a training image is moved at most, in each direction, with zeros at the border (the
            padded crop of CIFAR); 0 moves none; None is 4, or 0 for images that are cropped at random when read.
        mirror: whether a training image is mirrored left to right with probability 1/2.
        num_workers: processes that read images; 0 reads them in the training process.
        seed: of the order of training, together with the epoch, and of shifting and mirroring, together with the step:
            a resumed training sees what an uninterrupted one does.

    Raises:
        InputError: a setting is impossible.
    """

    def __init__(
        self,
        *,
        images: ImageSet,
        batch_size: int = 128,
        shift: int | None = None,
        mirror: bool = True,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if shift is None:
            shift = 0 if images.crops else 4
        if batch_size < 1 or shift < 0:
            raise InputError(f"datamodule: batch_size={batch_size}, shift={shift}: expected at least 1 and 0")
        self.images, self.batch_size, self.shift, self.mirror = images, batch_size, shift, mirror
        self.num_workers, self.seed = num_workers, seed
        self.add_to_batch: Callable[[Tensor, Tensor], Tensor] | None = None
        self._loaded: dict[str, Dataset[Sample]] = {}

    @property
    def identity(self) -> str:
        """A text of everything that decides what a network is trained on."""
        return f"{self.images.identity}; shift {self.shift}, mirror {self.mirror}, batches of {self.batch_size}"

    @property
    def varies(self) -> bool:
        """Whether a training image has other pixels in every epoch."""
        return bool(self.shift or self.mirror or self.images.crops)

    def for_another_run(self, seed: int) -> ImageDataModule:
        """Return a data module of the same images for a run of its own, with another seed of the order."""
        other = copy.copy(self)
        other.trainer, other.seed, other.add_to_batch = None, seed, None
        return other

    def state_dict(self) -> dict[str, int]:
        """Return what a resumed training must have in common with this one."""
        return {"step": self.batch_size * processes(self.trainer)[0], "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Check that a resumed training sees the same images in a step.

        Raises:
            InputError: it would not.
        """
        if self.trainer is None or self.trainer.state.fn != "fit":
            return
        now = self.state_dict()
        complaints = {
            "step": f"on {state['step']} images a step, not {now['step']}; resume with the same product of"
            " datamodule.batch_size and devices",
            "seed": f"with datamodule.seed={state['seed']}, not {now['seed']}, which decides the order of the images;"
            " resume with the same seed",
        }
        check_same(state, now, complaints)

    def train_images(self) -> DataLoader[Any]:
        """Return the training images as they are read, once and in their order, with their indices."""
        return self._loader("train", batch_size=self.batch_size)

    def train_dataloader(self) -> ImageLoader:
        """Return training batches in an order of the seed and the epoch; resumes within an epoch."""
        trainer = self.trainer
        replicas, rank = processes(trainer)
        same = bool(trainer and trainer.overfit_batches)  # type: ignore[attr-defined]
        return ImageLoader(
            partial(self._loader, "train"),
            len(self._images("train")),  # type: ignore[arg-type]
            self.batch_size,
            seed=self.seed,
            replicas=replicas,
            rank=rank,
            place=(lambda: replace(place(trainer), epoch=0) if same else place(trainer)) if trainer else None,
        )

    def val_dataloader(self) -> SharedLoader:
        """Return validation batches; on several devices, those of this one."""
        return self._shared("validation")

    def test_dataloader(self) -> SharedLoader:
        """Return test batches; on several devices, those of this one."""
        return self._shared("test")

    def held_out(self) -> DataLoader[Any]:
        """Return all validation batches, in every process."""
        return self._loader("validation", batch_size=self.batch_size)

    def _shared(self, split: Split) -> SharedLoader:
        count, (replicas, rank) = len(self._images(split)), processes(self.trainer)  # type: ignore[arg-type]
        if count < replicas:
            raise InputError(f"{self.images.name}: {count} {split} images, fewer than the {replicas} devices")
        return SharedLoader(partial(self._loader, split), batches(count, self.batch_size, replicas, rank))

    def train_classes(self) -> Tensor:
        """Return the classes of all training images, int64 [n], by index."""
        return torch.as_tensor(_classes(self._images("train")), dtype=torch.int64)

    def on_before_batch_transfer(self, batch: tuple[Tensor, ...], dataloader_idx: int) -> tuple[Tensor, ...]:
        """Add the result of `add_to_batch` to a training batch."""
        if self.add_to_batch is None or self.trainer is None or not self.trainer.training:
            return batch
        images, _, indices = batch
        return *batch, self.add_to_batch(images, indices)

    def on_after_batch_transfer(self, batch: tuple[Tensor, ...], dataloader_idx: int) -> tuple[Tensor, ...]:
        """Shift and mirror training images, on the device of the batch."""
        if self.trainer is None or not self.trainer.training:
            return batch
        images, *others = batch
        now = place(self.trainer)
        generator = torch.Generator(images.device).manual_seed(derived_seed((self.seed, 0, now.epoch, now.trained)))
        return augment(images, self.shift, self.mirror, generator, *processes(self.trainer)), *others

    def _images(self, split: Split) -> Dataset[Sample]:
        if split not in self._loaded:
            self._loaded[split] = self.images.load(split)
        data = self._loaded[split]
        if len(data) < (self.batch_size if split == "train" else 1):  # type: ignore[arg-type]
            raise InputError(f"{self.images.name}: {len(data)} {split} images, fewer than a batch")  # type: ignore[arg-type]
        return data

    def _loader(self, split: Split, **options: Any) -> DataLoader[Any]:
        images = self._images(split)
        return DataLoader(
            Indexed(images) if split == "train" else images,
            **options,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )


class Indexed(BatchedImages):
    """Images of a data set, each with its class and its index."""

    def __init__(self, images: Dataset[Sample]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Read a batch, collated."""
        return (*read_batch(self.images, indices), torch.as_tensor(indices))


def _classes(images: Any) -> Any:
    """Return the classes of a data set in its order, without reading its images if the data set allows that."""
    if isinstance(images, Subset):
        return torch.as_tensor(_classes(images.dataset))[images.indices]
    if hasattr(images, "targets"):
        return images.targets
    return [int(target) for _, target in images]


class ImageLoader(EpochLoader):
    """Full batches of an epoch in random order.

    Args:
        load: makes a loader of the images, given `batch_sampler` and `generator`.
        images: how many there are.
        batch_size: of them per step and process.
        seed: of the order, together with the epoch.
        replicas: how many processes share the images.
        rank: which of them this is, from 0.
        place: see `EpochLoader`; by default, the beginning of the first epoch.
    """

    def __init__(
        self,
        load: Callable[..., DataLoader[Any]],
        images: int,
        batch_size: int,
        *,
        seed: int = 0,
        replicas: int = 1,
        rank: int = 0,
        place: Callable[[], Place] | None = None,
    ) -> None:
        super().__init__(place or (lambda: Place(0, 0)))
        self.load, self.images, self.batch_size, self.seed = load, images, batch_size, seed
        self.replicas, self.rank = replicas, rank

    def __len__(self) -> int:
        """Steps per epoch, the same on every process; images that do not fill a step wait for another epoch."""
        return self.images // (self.batch_size * self.replicas)

    def batches(self, place: Place) -> Iterable[Any]:
        """See `EpochLoader.batches`."""
        generator = torch.Generator().manual_seed(derived_seed((self.seed, place.epoch)))
        order = torch.randperm(self.images, generator=generator)[: len(self) * self.batch_size * self.replicas]
        batches = order.view(len(self), self.replicas, self.batch_size)[place.trained :, self.rank]
        return self.load(batch_sampler=batches.tolist(), generator=generator)


def augment(
    images: Tensor,
    shift: int,
    mirror: bool,
    generator: torch.Generator | None = None,
    replicas: int = 1,
    rank: int = 0,
) -> Tensor:
    """Move each image [b, c, h, w] by up to `shift` pixels, with zeros at the border, and mirror half of them.

    With generators of the same seed, several processes treat their images as one process does that has them all.
    """
    count, _, height, width = images.shape
    device = images.device
    own = slice(rank * count, (rank + 1) * count)
    if shift:
        padded = functional.pad(images, (shift, shift, shift, shift))
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [b, c, 2 shift + 1, 2 shift + 1, h, w]
        down, right = torch.randint(2 * shift + 1, (2, replicas * count), generator=generator, device=device)[:, own]
        images = windows[torch.arange(count, device=device), :, down, right]
    if mirror:
        mirrored = torch.rand(replicas * count, generator=generator, device=device)[own] < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return images
