from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback
from PIL import Image

from introspect.core.errors import InputError
from introspect.core.resuming import Place
from introspect.dissection.measures.images import Reader
from introspect.distillation.datamodule import ImageDataModule, ImageLoader, augment
from introspect.distillation.module import Distillation
from introspect.distillation.objectives import CrossEntropy
from introspect.vision.datasets.files import ImageFolders
from tests.distillation.made import STUDENT, Colours, data, trainer


def test_every_image_is_served_once_in_an_order_of_the_seed():
    def order(seed):
        data = ImageDataModule(images=Colours(), batch_size=32, seed=seed)
        return torch.cat([images for images, *_ in data.train_dataloader()])

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


def seen(folder, epochs, ckpt_path=None, stop=None, batch_size=16, seed=0):
    """The training batches up to a step, as they reach the student, and a checkpoint of that moment."""
    batches = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batches.append(batch[0].clone())

        def on_train_batch_end(self, trainer, *_):
            if len(batches) == stop:
                trainer.save_checkpoint(folder / "x.ckpt")

    run = trainer(folder, epochs, callbacks=[Watch()], limit_val_batches=0)
    module = Distillation(student=STUDENT, objective=CrossEntropy())
    run.fit(module, data(batch_size=batch_size, seed=seed), ckpt_path=ckpt_path, weights_only=True)
    return batches[:stop]


@pytest.mark.parametrize("stop", [12, 9])
def test_a_resumed_training_sees_what_an_uninterrupted_one_does(tmp_path, stop):
    whole = seen(tmp_path, 4)
    first = seen(tmp_path, 4, stop=stop)
    second = seen(tmp_path, 4, ckpt_path=tmp_path / "x.ckpt")
    assert len(whole) == 24
    assert len(first) == stop
    for one, other in zip(whole, [*first, *second], strict=True):
        assert torch.equal(one, other)
    epochs = [torch.cat(whole[start : start + 6]) for start in range(0, 24, 6)]
    assert not any(torch.equal(epochs[0], epoch) for epoch in epochs[1:])


@given(
    images=st.integers(1, 60),
    batch=st.integers(1, 7),
    replicas=st.integers(1, 3),
    trained=st.integers(0, 3),
    epoch=st.integers(0, 9),
)
def test_processes_share_the_images_of_an_epoch(images, batch, replicas, trained, epoch):
    def batches(rank, start):
        return list(
            ImageLoader(
                lambda batch_sampler, generator: batch_sampler,
                images,
                batch,
                replicas=replicas,
                rank=rank,
                place=lambda: Place(epoch, start),
            )
        )

    every = [batches(rank, 0) for rank in range(replicas)]
    numbers = [number for rank in every for one in rank for number in one]
    assert len(numbers) == len(set(numbers)) == images // (batch * replicas) * batch * replicas
    assert batches(0, trained) == every[0][trained:]


def test_images_that_are_cropped_at_random_are_not_shifted_too(tmp_path):
    folders = ImageFolders(name="x", root=tmp_path, side=8, classes=2)
    assert ImageDataModule(images=folders).shift == 0
    assert ImageDataModule(images=folders, shift=2).shift == 2
    assert ImageDataModule(images=Colours()).shift == 4


def test_what_is_measured_is_cropped_the_same_way_each_time(tmp_path):
    for name in ("train/a", "train/b"):
        (tmp_path / name).mkdir(parents=True)
        numbers = torch.randint(256, (40, 40, 3), dtype=torch.uint8).numpy()
        Image.fromarray(numbers).save(tmp_path / name / "x.png")
    data = ImageFolders(name="x", root=tmp_path, side=16, classes=2, train="train", validation="train")
    cropped = data.load("train")
    assert not all(torch.equal(cropped[0][0], cropped[0][0]) for _ in range(5))
    found = [batch.images for _ in range(2) for batch in Reader(data, split="train")]
    assert torch.equal(*found)


def test_fewer_images_than_a_batch():
    with pytest.raises(InputError, match="colours: 96 train images, fewer than a batch"):
        ImageDataModule(images=Colours(), batch_size=100).train_dataloader()


def test_training_batches_name_their_images(tmp_path):
    data = ImageDataModule(images=Colours(), batch_size=32)
    train = Colours().load("train")
    for images, classes, numbers in data.train_dataloader():
        assert torch.equal(images, train.images[numbers])
        assert torch.equal(classes, data.train_classes()[numbers])
    assert data.train_classes().tolist() == train.targets.tolist()


def folders(root, size=8):
    for split, images in (("train", 6), ("val", 2)):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for number in range(images):
                Image.new("RGB", (size, size), (number, 0, 0)).save(root / split / name / f"{number}.png")
    return ImageFolders(name="x", root=root, side=size, classes=2, resize="exact", held_out=0.3)


def test_images_in_folders_have_numbers_too(tmp_path):
    """Those that are held out have none: a number is a place among the images that are trained on."""
    data = ImageDataModule(images=folders(tmp_path), batch_size=2)
    classes = data.train_classes()
    assert 2 < len(classes) < 12
    seen = {}
    for _, targets, numbers in data.train_dataloader():
        seen |= dict(zip(numbers.tolist(), targets.tolist(), strict=True))
    assert all(classes[number] == target for number, target in seen.items())
    assert len(seen) == len(classes) // 2 * 2


def test_a_training_goes_on_with_as_many_images_a_step(tmp_path):
    seen(tmp_path, 2, stop=9)
    with pytest.raises(InputError, match="trained on 16 images a step, not 24; resume with the same product"):
        seen(tmp_path, 2, ckpt_path=tmp_path / "x.ckpt", batch_size=24)


def test_a_training_goes_on_with_the_seed_that_orders_its_images(tmp_path):
    seen(tmp_path, 2, stop=9, seed=3)
    with pytest.raises(InputError, match=r"^ckpt_path: .* trained with datamodule\.seed=3, not 4.* the same seed$"):
        seen(tmp_path, 2, ckpt_path=tmp_path / "x.ckpt", seed=4)
    assert len(seen(tmp_path, 2, ckpt_path=tmp_path / "x.ckpt", seed=3)) == 3
