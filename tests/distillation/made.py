"""Images small enough for any test: each class has a colour of its own. Networks and a trainer for them."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer

from introspect.distillation.datamodule import ImageDataModule
from introspect.vision.backbones import Backbone
from introspect.vision.datasets.base import ImageSet, TensorImages


class Colours(ImageSet):
    """An `ImageSet` of three classes, 16 pixels."""

    name, side, classes = "colours", 16, 3

    def __init__(self, seed=0, sizes=(96, 24, 24), contrast=120):
        self.seed, self.sizes = seed, dict(zip(("train", "validation", "test"), sizes, strict=True))
        self.contrast = contrast

    @property
    def identity(self):
        return f"colours {self.seed} {self.sizes}"

    def load(self, split):
        numbers = torch.Generator().manual_seed(self.seed + len(split))
        classes = torch.arange(self.sizes[split]) % 3
        images = torch.randint(90, (len(classes), 3, 16, 16), generator=numbers)
        images[torch.arange(len(classes)), classes] += self.contrast
        return TensorImages(images.to(torch.uint8), classes)


STUDENT = Backbone("cifar_resnet8", 3, width=4)


def data(**options):
    return ImageDataModule(**{"images": Colours(), "batch_size": 32, **options})


def trainer(folder, epochs=1, **options):
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    settings = {"accelerator": "cpu", "default_root_dir": folder, "max_epochs": epochs}
    return Trainer(**{**settings, **quiet, **options})
