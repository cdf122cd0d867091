"""Networks with weights: torchvision's, or a backbone with the weights of a file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from introspect.core.errors import InputError, first_line, one_line
from introspect.vision.backbones import Backbone
from introspect.vision.preprocessing import Normalize, Preprocess, preprocessing

MODEL = "model"
RANDOM = "random"
_WRAPPERS = ("module.", "model.", "student.", "network.")


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network with weights, as `dissect.py` takes it.

    Attributes:
        module: the network, on the CPU in evaluation mode.
        name: such as `resnet18`.
        source: where its weights come from: a file, or a name of torchvision's.
        preprocess: makes what the network takes in of images, uint8 [b, 3, h, w]; None where that is not known.
    """

    module: nn.Module
    name: str
    source: str = ""
    preprocess: Preprocess | None = None

    def prepared_as(self, how: str | Preprocess | Sequence[Sequence[float]]) -> Preprocess:
        """Return the preprocessing that an option names: `model` is the network's own; else see `preprocessing`.

        Raises:
            InputError: it is none, or the network does not say how its images are prepared.
        """
        if how != MODEL:
            return preprocessing(how)
        if self.preprocess is None:
            raise InputError(
                "preprocessing=model: the network does not say how its images are prepared; give "
                "preprocessing=imagenet, reference or [[mean of r, g, b], [deviation of r, g, b]]"
            )
        return self.preprocess


def torchvision_network(
    *, name: str, ckpt_path: str | Path | None = None, weights: str | None = None, classes: int = 1000
) -> Network:
    """Return a classifier of torchvision, in evaluation mode.

    Args:
        name: such as `resnet18`.
        ckpt_path: file with its weights: a state dict, or a checkpoint that holds one.
        weights: a name of torchvision's weights, such as `IMAGENET1K_V1` or `DEFAULT`, which are downloaded; `random`
            leaves it untrained.
        classes: number of classes, where the weights come from a file.

    Raises:
        InputError: there is no such network, not exactly one of `ckpt_path` and `weights` is given, or they do not fit.
    """
    if (ckpt_path is None) == (weights is None):
        raise InputError(
            f"which weights? give either ckpt_path=… or network.weights=… for {name} (network.weights=random leaves "
            "it untrained)"
        )
    published = None if weights == RANDOM else weights
    network = Backbone(name, classes, published).build()
    if ckpt_path is not None:
        load_weights(network, ckpt_path)
    return Network(network.eval(), name, str(ckpt_path or weights), weights_preprocessing(name, published))


def weights_preprocessing(name: str, weights: str | None) -> Preprocess:
    """Return the preprocessing of weights of torchvision's; of others (None) that of its training."""
    from torchvision import models

    if weights is None:
        return preprocessing("imagenet")
    used = models.get_model_weights(name)[weights].transforms()
    return Normalize([255 * value for value in used.mean], [255 * value for value in used.std])


def backbone_network(
    *, backbone: Backbone, ckpt_path: str | Path, normalization: str | Sequence[Sequence[float]] = "imagenet"
) -> Network:
    """Return a network by name with the weights of a file, in evaluation mode.

    Args:
        backbone: which network.
        ckpt_path: a state dict, a checkpoint that holds one, or safetensors.
        normalization: of the pixels, as it was in the training: see `preprocessing.preprocessing`.

    Raises:
        InputError: there is no such network or file, or the weights are not those of the network.
    """
    network = backbone.build()
    load_weights(network, ckpt_path)
    return Network(network.eval(), backbone.name, str(ckpt_path), preprocessing(normalization))


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load the weights of a file into a network; nothing in the file is executed.

    A checkpoint's `state_dict` or `model` is used, and the prefix that a wrapper puts before every name is dropped.

    Raises:
        InputError: there is no such file, it holds no weights, or they are not those of the network.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"ckpt_path={path}: no such file")
    state = _state(_content(path))
    if not state:
        raise InputError(f"ckpt_path={path} holds no weights")
    names = network.state_dict().keys()
    chosen = next((part for part in _unwrapped(state) if names & part.keys()), state)
    try:
        network.load_state_dict(chosen)
    except RuntimeError as error:
        reason = one_line(error, 200)
        raise InputError(f"ckpt_path={path}: the weights are not those of the network: {reason}") from error


def _content(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        LookupError,
        ValueError,
        TypeError,
    ) as error:
        # Files that torch did not write fail in any of these ways.
        raise InputError(f"ckpt_path={path} cannot be loaded safely: {first_line(error)}") from error


def _state(content: Any) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _unwrapped(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the weights as they are, then those below each prefix."""
    below = [
        {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        for prefix in _WRAPPERS
    ]
    return [state, *filter(None, below)]
