"""Classifiers by name: torchvision's, and the ResNets of CIFAR (He et al. 2016, arXiv 1512.03385, section 4.2).

Shapes: b images, h x w pixels, c classes.
"""

from __future__ import annotations

import copy
import difflib
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from introspect.core.errors import InputError, first_line

_CIFAR = re.compile(r"cifar_resnet(\d+)")


@dataclass(frozen=True, slots=True)
class Backbone:
    """A classifier, by name: plain data, so that a checkpoint can say which network its weights belong to.

    Attributes:
        name: `cifar_resnet20` (or another depth 6n + 2), or any classifier of torchvision, such as `resnet18`.
        classes: number of classes. torchvision's weights have their own.
        weights: name of torchvision's weights, such as `IMAGENET1K_V1` or `DEFAULT`, which are downloaded; None
            initialises them at random.
        width: channels of the first stage of a CIFAR ResNet; the other two have twice and four times as many.
        stem_stride: stride of the first convolution of a CIFAR ResNet; 2 halves the sides of every feature map.
    """

    name: str
    classes: int
    weights: str | None = None
    width: int = 16
    stem_stride: int = 1

    def build(self) -> nn.Module:
        """Build the network.

        Raises:
            InputError: there is no such network, or it has no such weights.
        """
        if self.classes < 2:
            raise InputError(f"classes={self.classes}: {self.name} needs 2 or more")
        if found := _CIFAR.fullmatch(self.name):
            if self.weights is not None:
                raise InputError(
                    f"weights={self.weights}: {self.name} has no published weights by name; give ckpt_path=…"
                )
            return CifarResNet(int(found[1]), self.classes, self.width, self.stem_stride)
        return _torchvision(self.name, self.classes, self.weights)


def _torchvision(name: str, classes: int, weights: str | None) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=4) or known[:4]
        raise InputError(
            f"name={name}: torchvision has no such classifier; close are {', '.join(close)}; also cifar_resnet20, …"
        )
    options = {"num_classes": classes} if weights is None else {}
    try:
        network: nn.Module = models.get_model(name, weights=weights, **options)
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"weights={weights}: {name} has no such weights: {first_line(error)}") from error
    return network


class CifarResNet(nn.Module):
    """A ResNet of depth 6n + 2 for small images: `conv1`, `layer1` to `layer3` of n blocks each, `linear`.

    Shortcuts have no parameters (option A): every other pixel, and zeros for the new channels. Names are those of the
    weights published at akamaster/pytorch_resnet_cifar10.

    Args:
        depth: 6n + 2.
        classes: c, number of classes.
        width: channels of the first stage.
        stem_stride: stride of the first convolution.

    Raises:
        InputError: the depth is not 6n + 2.
    """

    def __init__(self, depth: int, classes: int, width: int = 16, stem_stride: int = 1) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise InputError(f"name=cifar_resnet{depth}: the depth must be 6n + 2: 8, 14, 20, 32, 44, 56, 110, …")
        self.conv1 = nn.Conv2d(3, width, 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [b, c] of images [b, 3, h, w]."""
        maps = functional.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: Tensor = self.linear(maps.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _Block(inputs, outputs, stride), *(_Block(outputs, outputs, stride=1) for _ in range(blocks - 1))
    )


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, maps: Tensor) -> Tensor:
        rest = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(maps)))))
        before, after = self.added // 2, self.added - self.added // 2
        shortcut = functional.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, after))
        return functional.relu(rest + shortcut)


def full_precision(network: nn.Module) -> nn.Module:
    """Return the network itself, or a float32 copy of one with weights of 16 bits, whose activations would tie."""
    has_few = any(value.dtype in (torch.bfloat16, torch.float16) for value in network.state_dict().values())
    return copy.deepcopy(network).float() if has_few else network
