from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.distillation.datamodule import ImageDataModule, augment
from introspect.errors import InputError
from tests.distillation.made import Colours


def test_every_image_is_served_once_in_an_order_of_the_seed():
    def order(seed):
        data = ImageDataModule(images=Colours(), batch_size=32, seed=seed)
        return torch.cat([images for images, _ in data.train_dataloader()])

    first, again, other = order(0), order(0), order(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert sorted(first.flatten(1).sum(1).tolist()) == sorted(other.flatten(1).sum(1).tolist())


def test_batches_are_bytes_and_classes():
    images, classes = next(iter(ImageDataModule(images=Colours(), batch_size=8).val_dataloader()))
    assert images.dtype == torch.uint8
    assert images.shape == (8, 3, 16, 16)
    assert classes.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


@given(st.integers(0, 4), st.booleans(), st.integers(0, 99))
def test_augmented_images_are_moved_and_mirrored_ones(shift, mirror, seed):
    torch.manual_seed(seed)
    images = torch.randint(1, 256, (5, 3, 6, 7), dtype=torch.uint8)
    found = augment(images, shift, mirror)
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    padded = torch.nn.functional.pad(images, (shift,) * 4)
    for one, result in zip(padded, found, strict=True):
        moved = [one[:, y : y + 6, x : x + 7] for y in range(2 * shift + 1) for x in range(2 * shift + 1)]
        candidates = [*moved, *(image.flip(-1) for image in moved)] if mirror else moved
        assert any(torch.equal(result, candidate) for candidate in candidates)


def test_fewer_images_than_a_batch():
    with pytest.raises(InputError, match="colours: 96 train images, fewer than a batch"):
        ImageDataModule(images=Colours(), batch_size=100).train_dataloader()
