"""The images of a classifier's training, in batches.

Shapes: b images of h x w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from introspect.core.resuming import Place, check_same, place
from introspect.core.seeds import derived_seed
from introspect.vision.datasets.base import BatchedImages, ImageSet, Sample, Split, collate, read_batch


class ImageDataModule(LightningDataModule):
    """Serves uint8 images [b, 3, h, w] and classes [b]; training images are shifted and mirrored on the way.

    A training batch also has the numbers of its images in the training set, int64 [b], and what `beside` makes of
    images and numbers, where a module has set it; it is called on the CPU, before they are shifted and mirrored.

    Several processes train on what one would with their batches in one, also as far as shifting and mirroring goes, and
    measure each held-out image once.

    Args:
        images: where they come from.
        batch_size: images per step and device.
        shift: pixels by which a training image is moved at most, in each direction, zeros coming in (the usual
            padded crop of CIFAR); 0 moves none; None is 4, or 0 for images that are cropped at random as they are read.
        mirror: whether half of the training images are mirrored left to right.
        num_workers: processes that read images; 0 reads them in the training process.
        seed: of the order of training, together with the epoch, and of how batches are shifted and mirrored, together
            with the step: a resumed training sees what an uninterrupted one does.

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
        self.beside: Callable[[Tensor, Tensor], Tensor] | None = None
        self._loaded: dict[str, Dataset[Sample]] = {}

    @property
    def identity(self) -> str:
        """Everything that decides what a network is trained on."""
        return f"{self.images.identity}; shift {self.shift}, mirror {self.mirror}, batches of {self.batch_size}"

    @property
    def varies(self) -> bool:
        """Whether a training image comes with other pixels each time."""
        return bool(self.shift or self.mirror or self.images.crops)

    def state_dict(self) -> dict[str, int]:
        """What a resumed training must have in common with this one."""
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
        """The training images as they are read, once and in their order, with their numbers."""
        return self._loader("train", batch_size=self.batch_size)

    def train_dataloader(self) -> EpochLoader:
        """Training batches in an order that the seed and the epoch decide; resumes within an epoch."""
        trainer = self.trainer
        replicas, rank = processes(trainer)
        same = bool(trainer and trainer.overfit_batches)  # type: ignore[attr-defined]
        return EpochLoader(
            partial(self._loader, "train"),
            len(self._images("train")),  # type: ignore[arg-type]
            self.batch_size,
            seed=self.seed,
            replicas=replicas,
            rank=rank,
            place=(lambda: replace(place(trainer), epoch=0) if same else place(trainer)) if trainer else None,
        )

    def val_dataloader(self) -> SharedLoader:
        """Held-out batches; on several devices, this one's share."""
        return self._shared("validation")

    def test_dataloader(self) -> SharedLoader:
        """Test batches; on several devices, this one's share."""
        return self._shared("test")

    def held_out(self) -> DataLoader[Any]:
        """Held-out batches, all of them in every process."""
        return self._loader("validation", batch_size=self.batch_size)

    def _shared(self, split: Split) -> SharedLoader:
        count, (replicas, rank) = len(self._images(split)), processes(self.trainer)  # type: ignore[arg-type]
        if count < replicas:
            raise InputError(f"{self.images.name}: {count} {split} images, fewer than the {replicas} devices")
        return SharedLoader(partial(self._loader, split), batches(count, self.batch_size, replicas, rank))

    def train_classes(self) -> Tensor:
        """The class numbers of all training images, int64 [n], by their numbers."""
        return torch.as_tensor(_classes(self._images("train")), dtype=torch.int64)

    def on_before_batch_transfer(self, batch: tuple[Tensor, ...], dataloader_idx: int) -> tuple[Tensor, ...]:
        """Add what stands beside the images of a training batch."""
        if self.beside is None or self.trainer is None or not self.trainer.training:
            return batch
        images, _, numbers = batch
        return *batch, self.beside(images, numbers)

    def on_after_batch_transfer(self, batch: tuple[Tensor, ...], dataloader_idx: int) -> tuple[Tensor, ...]:
        """Augment what is trained on, where the batch then lies."""
        if self.trainer is None or not self.trainer.training:
            return batch
        images, *others = batch
        numbers = torch.Generator(images.device)
        now = place(self.trainer)
        numbers.manual_seed(derived_seed((self.seed, 0, now.epoch, now.trained)))
        return augment(images, self.shift, self.mirror, numbers, *processes(self.trainer)), *others

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
            Numbered(images) if split == "train" else images,
            **options,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )


class Numbered(BatchedImages):
    """Images of a data set, each with its class and its number."""

    def __init__(self, images: Dataset[Sample]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Read a batch, collated."""
        return (*read_batch(self.images, indices), torch.as_tensor(indices))


def _classes(images: Any) -> Any:
    """The class numbers of a data set in its order, without reading its images."""
    if isinstance(images, Subset):
        return torch.as_tensor(_classes(images.dataset))[images.indices]
    if hasattr(images, "targets"):
        return images.targets
    return [int(target) for _, target in images]


class EpochLoader:
    """Full batches of an epoch in random order, from the place that training has reached.

    It is deliberately no `DataLoader`: Lightning would put a sampler of its own into one.

    Args:
        load: makes a loader of the images, given `batch_sampler` and `generator`.
        images: how many there are.
        batch_size: of them per step and process.
        seed: of the order, together with the epoch.
        replicas, rank: how many processes share the images, and which one this is.
        place: where the training stands; asked when the first batch is wanted. By default at the beginning of the first
            epoch.
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
        self.load, self.images, self.batch_size, self.seed = load, images, batch_size, seed
        self.replicas, self.rank = replicas, rank
        self._place = place or (lambda: Place(0, 0))

    def __len__(self) -> int:
        """Steps per epoch, the same on every process; images that do not fill a step wait for another epoch."""
        return self.images // (self.batch_size * self.replicas)

    def __iter__(self) -> Iterator[Any]:
        # A generator, so that the place is asked for with the first batch: Lightning makes the iterator of a resumed
        # epoch before it knows where that epoch goes on.
        place = self._place()
        numbers = torch.Generator().manual_seed(derived_seed((self.seed, place.epoch)))
        order = torch.randperm(self.images, generator=numbers)[: len(self) * self.batch_size * self.replicas]
        batches = order.view(len(self), self.replicas, self.batch_size)[place.trained :, self.rank]
        yield from self.load(batch_sampler=batches.tolist(), generator=numbers)

    def state_dict(self) -> dict[str, int]:
        """The place, for a checkpoint. By having this method the loader says that it can resume within an epoch."""
        place = self._place()
        return {"epoch": place.epoch, "trained": place.trained}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing: the place is asked for where it is known."""


def augment(
    images: Tensor,
    shift: int,
    mirror: bool,
    generator: torch.Generator | None = None,
    replicas: int = 1,
    rank: int = 0,
) -> Tensor:
    """Move each image [b, c, h, w] by up to `shift` pixels, zeros coming in, and mirror half of them.

    With generators of one seed, each of several processes treats its images as one process does that has them all.
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
