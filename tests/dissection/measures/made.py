"""Networks, data and checkpoints for the measures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from introspect.core.errors import InputError
from introspect.distillation.module import Distillation
from introspect.distillation.objectives import CrossEntropy
from introspect.vision.backbones import Backbone
from introspect.vision.datasets.base import ImageSet
from introspect.vision.networks import Network

SETTINGS = ["extras.print_config=false", "logger=csv", "measure.device=cpu"]


def plain(images: Tensor) -> Tensor:
    """Pixels as they are."""
    return images.float()


class Squares(ImageSet):
    """Two classes of images that knows what matters: a bright square, left or right, on dark grain."""

    name, side, classes, has_truths = "squares", 8, 2, True
    identity = "squares"

    def __init__(self, size: int = 40, seed: int = 0) -> None:
        self.size, self.seed = size, seed

    def explained(self, split: str) -> TensorDataset:
        numbers = torch.Generator().manual_seed(self.seed + len(split))
        classes = torch.arange(self.size) % 2
        truth = torch.zeros(self.size, 8, 8)
        truth[classes == 0, 2:6, :3], truth[classes == 1, 2:6, 5:] = 0.9, 0.9
        images = torch.randint(0, 60, (self.size, 3, 8, 8), generator=numbers)
        images += (truth > 0)[:, None] * 150
        return TensorDataset(images.to(torch.uint8), classes, truth)

    def load(self, split: str) -> TensorDataset:
        images, classes, _ = self.explained(split).tensors
        return TensorDataset(images, classes)


class Sides(nn.Module):
    """Tells `Squares` apart by the sums of the left and the right."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 3, 8, 8))
        with torch.no_grad():
            self.weight[0, :, 2:6, :3], self.weight[1, :, 2:6, 5:] = 1 / 255, 1 / 255

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", images, self.weight)


def sides(module: nn.Module | None = None) -> Network:
    """`Sides`, or another network of the same images."""
    return Network(module or Sides(), "sides", "made by hand", plain)


def checkpoint(folder: Path, classes: int) -> Path:
    """A checkpoint of train.py: a small untrained student."""
    torch.manual_seed(0)
    module = Distillation(student=Backbone("cifar_resnet8", classes, width=4, stem_stride=2), objective=CrossEntropy())
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, max_epochs=0)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(folder / "student.ckpt", weights_only=True)
    return folder / "student.ckpt"


def without(name: str, patch: pytest.MonkeyPatch) -> Any:
    """Let a library be absent."""

    def absent(module: str) -> Any:
        if module.partition(".")[0] == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        raise AssertionError(module)

    patch.setattr("introspect.dissection.measures.base.importlib", SimpleNamespace(import_module=absent))
    return pytest.raises(InputError, match=rf'{name} is not installed: pip install "introspect\[measures\]"')
