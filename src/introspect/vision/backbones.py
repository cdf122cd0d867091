"""Classifiers: torchvision's, and the ResNets of CIFAR (He et al. 2016, arXiv 1512.03385, section 4.2).

Shapes: b images, h x w pixels, c classes.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from introspect.core.errors import InputError, first_line
from introspect.vision.features import Features, exact

_CIFAR = re.compile(r"cifar_resnet(\d+)")


@dataclass(frozen=True, slots=True)
class Backbone:
    """A classifier, by name: plain data, so that a checkpoint can say which network its weights are of.

    name: `cifar_resnet20` (or another depth 6n + 2), or any classifier of torchvision, such as `resnet18`.
    classes: how many it tells apart.
    weights: of torchvision's, such as `IMAGENET1K_V1` or `DEFAULT`, which are downloaded; None begins at random.
    width: channels of the first stage of a CIFAR ResNet; the other two have twice and four times as many.
    stem_stride: of its first convolution; 2 halves the sides of every feature map.
    """

    name: str
    classes: int
    weights: str | None = None
    width: int = 16
    stem_stride: int = 1

    def build(self) -> nn.Module:
        """The network.

        Raises:
            InputError: there is no such network, or it has no such weights.
        """
        if self.classes < 2:
            raise InputError(f"backbone {self.name}: classes={self.classes}, expected 2 or more")
        if found := _CIFAR.fullmatch(self.name):
            if self.weights is not None:
                raise InputError(f"backbone {self.name} has no published weights by name; give a ckpt_path instead")
            return CifarResNet(int(found[1]), self.classes, self.width, self.stem_stride)
        return _torchvision(self.name, self.classes, self.weights)


def _torchvision(name: str, classes: int, weights: str | None) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=4) or known[:4]
        raise InputError(f"backbone {name}: no such classifier; there are cifar_resnet20, {', '.join(close)}, …")
    try:
        network: nn.Module = models.get_model(
            name, weights=weights, **({"num_classes": classes} if weights is None else {})
        )
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"backbone {name}: no weights {weights!r}: {first_line(error)}") from error
    return network


class CifarResNet(nn.Module):
    """A ResNet of depth 6n + 2 for small images: `conv1`, `layer1` to `layer3` of n blocks each, `linear`.

    Shortcuts have no parameters (option A): every other pixel, and zeros for the new channels. Names are those of the
    weights published at akamaster/pytorch_resnet_cifar10.

    Args:
        depth: 6n + 2.
        classes: c.
        width: channels of the first stage.
        stem_stride: of the first convolution.

    Raises:
        InputError: the depth is none of these.
    """

    def __init__(self, depth: int, classes: int, width: int = 16, stem_stride: int = 1) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise InputError(f"backbone cifar_resnet{depth}: the depth must be 6n + 2: 8, 14, 20, 32, 44, 56, 110, …")
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
        """Logits [b, c] of images [b, 3, h, w]."""
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


def features(network: nn.Module, images: Tensor, layers: Sequence[str] = ()) -> Features:
    """Logits of a batch [b, 3, h, w], and what the layers put out, with gradients if they are on.

    Logits are float32 at least, whatever the network computes in: softmax and KL need the digits.

    Raises:
        InputError: the network has no such layer.
    """
    found: dict[str, Tensor] = {}
    with _tapped(network, layers, found):
        logits = network(images)
    return Features(exact(_main(logits)), found)


class CompiledFeatures:
    """`features` of one network and its layers, compiled by torch; the network and its weights' names stay as they are.

    Layers are read by hooks that stay until `close`: hooks that come and go would be compiled anew each time.

    Args:
        network: whose forward pass is compiled when it is first called, and again for another size of batch.
        layers: names of modules.

    Raises:
        InputError: the network has no such layer.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str] = ()) -> None:
        self._network = network
        self._found: dict[str, Tensor] = {}
        self._taps = ExitStack()
        self._taps.enter_context(_tapped(network, layers, self._found))
        self._compiled = torch.compile(self._read)

    def _read(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return exact(_main(self._network(images))), dict(self._found)

    def __call__(self, images: Tensor) -> Features:
        """See `features`."""
        self._found.clear()  # of what a call of the network itself has left there
        found = Features(*self._compiled(images))
        self._found.clear()
        return found

    def close(self) -> None:
        """Leave the network."""
        self._taps.close()


def _main(output: Any) -> Tensor:
    """Some classifiers of torchvision put out auxiliary logits too while they are trained."""
    logits: Tensor = output if isinstance(output, Tensor) else output[0]
    return logits


def full_precision(network: nn.Module) -> nn.Module:
    """The network itself, or a float32 copy of one with weights of 16 bits, for what is counted in single units."""
    has_few = any(value.dtype in (torch.bfloat16, torch.float16) for value in network.state_dict().values())
    return copy.deepcopy(network).float() if has_few else network


def outline(backbone: Backbone, layers: Sequence[str] = (), side: int = 224) -> Features:
    """The shapes of what a network and its layers put out for one image of side x side pixels: tensors without values.

    Nothing is computed, no weights are made or read.

    Raises:
        InputError: the network has no such layer.
    """
    with torch.device("meta"), torch.no_grad():
        network = replace(backbone, weights=None).build().eval()
        return features(network, torch.empty(1, 3, side, side), layers)


@contextmanager
def _tapped(network: nn.Module, layers: Sequence[str], found: dict[str, Tensor]) -> Iterator[None]:
    """As long as it is open, each forward pass leaves the layers' outputs in `found`."""
    from introspect.vision.hooks import find_layers

    def keeper(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[name] = output.clone()  # an operation that follows may change it in place

        return hook

    modules = find_layers(network, layers) if layers else {}
    handles = [module.register_forward_hook(keeper(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
