"""Forward hooks: read what layers of a network put out, without changing the network."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from introspect.core.errors import InputError
from introspect.core.inference import evaluating


def find_layers(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules of these names, such as `layer4` or `features.3.conv`.

    Raises:
        InputError: there is no such module; close names are listed.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if not layers:
        raise InputError(f"layer: name at least one; the network begins with {', '.join(list(modules)[:5])}")
    for layer in layers:
        if layer not in modules:
            close = difflib.get_close_matches(layer, modules, n=5, cutoff=0.5)
            top = [name for name, _ in model.named_children()]
            hint = f"did you mean {', '.join(close)}?" if close else f"its parts are {', '.join(top)}"
            raise InputError(f"layer={layer}: the network has no such layer; {hint}")
    return {layer: modules[layer] for layer in layers}


@contextmanager
def layer_outputs(
    model: nn.Module, layers: Sequence[str], read: Callable[[str, Any], Tensor], *, once: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Keep what layers put out while the context is open.

    Args:
        model: the network.
        layers: names of modules; may be empty.
        read: makes a tensor of a layer's name and output. It copies: an operation that follows may work in place.
        once: whether a layer must not be called again before its output has been taken out.

    Yields:
        A dict that after each forward pass holds the output of each layer.

    Raises:
        InputError: a layer does not exist or, with `once`, the network calls it more than once for an image.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if once and name in found:
                raise InputError(
                    f"layer={name}: the network calls it more than once for an image; name the module around it"
                )
            found[name] = read(name, output)

        return hook

    modules = find_layers(model, layers) if layers else {}
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def feature_maps(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Run the network in evaluation mode, without gradients, and keep the feature maps of its layers.

    Yields:
        A dict that after each forward pass holds the output of each layer, float32 [b, u, h, w]; vectors [b, u] are
        taken as maps of one cell. The reader takes them out.

    Raises:
        InputError: a layer does not exist or puts out no maps, or the network calls it more than once for an image.
    """
    with layer_outputs(model, layers, _maps, once=True) as found, evaluating(model), torch.inference_mode():
        yield found


def _maps(layer: str, output: Any) -> Tensor:
    """Copy a layer's output as float32 [b, u, h, w]."""
    if not isinstance(output, Tensor) or output.dim() not in (2, 4):
        what = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"layer={layer} puts out {what}: feature maps [images, units, height, width] or vectors are expected"
        )
    maps = output if output.dim() == 4 else output[:, :, None, None]
    return maps.detach().to(torch.float32, copy=True)
