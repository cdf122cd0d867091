"""Networks to be dissected: torchvision's or one's own, with weights that someone has named."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from introspect.core.errors import InputError, first_line
from introspect.vision.preprocessing import Normalize, Preprocess, preprocessing

RANDOM = "random"
_WRAPPERS = ("module.", "model.", "student.", "network.")


def torchvision_network(
    *, name: str, ckpt_path: str | Path | None = None, weights: str | None = None, classes: int = 1000
) -> nn.Module:
    """A classifier of torchvision, in evaluation mode.

    Args:
        name: such as `resnet18`.
        ckpt_path: file with its weights: a state dict, or a checkpoint that holds one.
        weights: a name of torchvision's weights, such as `IMAGENET1K_V1` or `DEFAULT`, which are downloaded; `random`
            leaves it untrained.
        classes: how many it tells apart, where the weights come from a file.

    Raises:
        InputError: there is no such network, not exactly one of `ckpt_path` and `weights` is given, or they do not fit.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5)
        raise InputError(f"network.name={name}: torchvision has no such classifier; close are {', '.join(close)}")
    if (ckpt_path is None) == (weights is None):
        raise InputError(
            f"which weights? give either ckpt_path=… or network.weights=… for {name} (network.weights=random leaves "
            "it untrained)"
        )
    if ckpt_path is not None:
        network = models.get_model(name, weights=None, num_classes=classes)
        load_weights(network, ckpt_path)
    else:
        try:
            network = models.get_model(name, weights=None if weights == RANDOM else weights)
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(f"network.weights={weights}: {name} has no such weights") from error
    network.preprocess = weights_preprocessing(name, None if weights == RANDOM else weights)
    network.origin = name, str(ckpt_path or weights)
    return network.eval()


def weights_preprocessing(name: str, weights: str | None) -> Preprocess:
    """How images were prepared for weights of torchvision's; for others (None) as torchvision's training does it."""
    from torchvision import models

    if weights is None:
        return preprocessing("imagenet")
    used = models.get_model_weights(name)[weights].transforms()
    return Normalize([255 * value for value in used.mean], [255 * value for value in used.std])


class Buildable(Protocol):
    """What builds a network, such as `introspect.vision.backbones.Backbone`."""

    name: str

    def build(self) -> nn.Module:
        """The network, with weights that do not matter."""
        ...


def backbone_network(
    *,
    backbone: Buildable,
    ckpt_path: str | Path,
    normalization: str | Sequence[Sequence[float]] = "imagenet",
) -> nn.Module:
    """A network by name with the weights of a file, in evaluation mode.

    Args:
        backbone: what builds it.
        ckpt_path: a state dict, a checkpoint that holds one, or safetensors.
        normalization: of the pixels, as it was in the training: see `preprocessing.preprocessing`.

    Raises:
        InputError: there is no such network or file, or the weights are not those of the network.
    """
    network: Any = backbone.build()
    load_weights(network, ckpt_path)
    network.preprocess = preprocessing(normalization)
    network.origin = backbone.name, str(ckpt_path)
    return network.eval()


def origin(network: nn.Module) -> tuple[str, str]:
    """What a network is called and whence its weights are, as far as it says so in its attribute `origin`."""
    name, source = getattr(network, "origin", (type(network).__name__, ""))
    return str(name), str(source)


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Fill a network with the weights of a file; nothing in it is executed.

    A checkpoint's `state_dict` or `model` is taken, and the prefix that a wrapper has put before every name is dropped.

    Raises:
        InputError: there is no such file, it holds no weights, or they are not those of the network.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"ckpt_path={path}: no such file")
    state = _state(_content(path))
    if not state:
        raise InputError(f"ckpt_path={path} holds no weights")
    expected = network.state_dict()
    chosen = next((part for part in _unwrapped(state) if expected.keys() & part.keys()), state)
    wrong = [
        # Weights older than PyTorch 0.4.1 lack this counter, which plays no part.
        *(f"{n} is missing" for n in expected.keys() - chosen.keys() if not n.endswith("num_batches_tracked")),
        *(f"{name} is unknown" for name in chosen.keys() - expected.keys()),
        *(
            f"{name} is {list(chosen[name].shape)}, expected {list(value.shape)}"
            for name, value in expected.items()
            if name in chosen and chosen[name].shape != value.shape
        ),
    ]
    if wrong:
        raise InputError(f"ckpt_path={path}: the weights are not those of the network: {sorted(wrong)[0]}")
    network.load_state_dict(chosen)


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
        # What is no file of torch at all fails in any of these ways.
        raise InputError(f"ckpt_path={path} can not be loaded safely: {first_line(error)}") from error


def _state(content: Any) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _unwrapped(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The weights as they are, then those below each prefix."""
    below = [
        {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        for prefix in _WRAPPERS
    ]
    return [state, *filter(None, below)]
