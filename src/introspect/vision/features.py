"""Features: the logits of a network for a batch of images, and the outputs of some of its layers.

Shapes: b images, c classes, u units, h x w cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from introspect.vision.backbones import Backbone
from introspect.vision.hooks import layer_outputs


@dataclass(frozen=True, slots=True)
class Features:
    """What a network makes of a batch.

    Attributes:
        logits: float [b, c].
        maps: outputs of layers by name, float [b, u, h, w] or [b, u].
    """

    logits: Tensor
    maps: Mapping[str, Tensor] = field(default_factory=dict)


def exact(values: Tensor) -> Tensor:
    """Return the values in float32, if they are of a shorter type: mixed precision must not reach what needs digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def features(network: nn.Module, images: Tensor, layers: Sequence[str] = ()) -> Features:
    """Run a network on a batch [b, 3, h, w] and keep what layers put out, with gradients if they are on.

    Logits are float32 at least, whatever the network computes in: softmax and KL need the digits.

    Raises:
        InputError: the network has no such layer.
    """
    with layer_outputs(network, layers, _copy) as found:
        logits = network(images)
    return Features(exact(_main(logits)), found)


class CompiledFeatures:
    """`features` of one network and its layers, compiled by torch; the network and its weights' names stay as they are.

    The hooks stay until `close`: hooks that come and go would be compiled anew each time.

    Args:
        network: whose forward pass is compiled when it is first called, and again for another size of batch.
        layers: names of modules.

    Raises:
        InputError: the network has no such layer.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str] = ()) -> None:
        self._network, self._hooks = network, ExitStack()
        self._found = self._hooks.enter_context(layer_outputs(network, layers, _copy))
        self._compiled = torch.compile(self._read)

    def _read(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return exact(_main(self._network(images))), dict(self._found)

    def __call__(self, images: Tensor) -> Features:
        """See `features`."""
        self._found.clear()  # outputs of direct calls of the network
        found = Features(*self._compiled(images))
        self._found.clear()
        return found

    def close(self) -> None:
        """Remove the hooks."""
        self._hooks.close()


def _copy(layer: str, output: Tensor) -> Tensor:
    return output.clone()


def _main(output: Any) -> Tensor:
    """Return the logits alone: some classifiers of torchvision put out auxiliary ones too during training."""
    logits: Tensor = output if isinstance(output, Tensor) else output[0]
    return logits


def outline(backbone: Backbone, layers: Sequence[str] = (), side: int = 224) -> Features:
    """Return the shapes of a network's features for one image of side x side pixels, as tensors without values.

    Nothing is computed; no weights are made or read.

    Raises:
        InputError: the network has no such layer.
    """
    with torch.device("meta"), torch.no_grad():
        network = replace(backbone, weights=None).build().eval()
        return features(network, torch.empty(1, 3, side, side), layers)
