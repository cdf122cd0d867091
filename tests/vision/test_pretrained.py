"""Published CIFAR-10 weights on real images."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from introspect.core.errors import InputError
from introspect.distillation.teacher import Teacher
from introspect.vision.backbones import Backbone
from introspect.vision.datasets.files import ImageFolders
from introspect.vision.preprocessing import preprocessing


def images(shared, **options):
    settings = {"name": "cifar10", "root": shared / "data" / "cifar10", "side": 32, "classes": 10, "test": "test"}
    return ImageFolders(**{**settings, "resize": "exact", **options})


@pytest.mark.parametrize(
    ("depth", "file", "accuracy"), [(20, "resnet20-12fca82f.th", 0.810), (56, "resnet56-4bfd9763.th", 0.849)]
)
def test_published_weights_score_as_published(shared, tmp_path, depth, file, accuracy):
    path = shared / "data" / "resnet_cifar10" / file
    network = Teacher(Backbone(f"cifar_resnet{depth}", 10), tmp_path, ckpt_path=path).load("")
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    right = 0
    with torch.inference_mode():
        for batch, targets in DataLoader(images(shared).load("test"), batch_size=250):
            right += int((network(preprocessing("imagenet")(batch)).argmax(-1) == targets).sum())
    assert right / 1000 == pytest.approx(accuracy, abs=0.0015)


def test_training_images_are_held_out_by_name(shared):
    data = images(shared)
    train, validation = (set(data.load(split).indices) for split in ("train", "validation"))
    assert not train & validation
    assert len(train | validation) == 2000
    assert 120 < len(validation) < 280


def test_what_does_not_fit_is_named(shared, tmp_path):
    with pytest.raises(InputError, match=r"there is no folder train of train images in it"):
        images(shared, root=tmp_path).load("train")
    with pytest.raises(InputError, match=r"holds 10 classes, data.classes says 9"):
        images(shared, classes=9).load("test")
    with pytest.raises(InputError, match=r"data.side=64: an image has 32 x 32 pixels"):
        images(shared, side=64).load("test")[0]
