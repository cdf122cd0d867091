"""Reading what layers of a network put out, without changing the network."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from introspect.core.errors import InputError
from introspect.core.inference import evaluating


def find_layers(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of these names, such as `layer4` or `features.3.conv`.

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
def tapped(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Run the network in evaluation mode, without gradients, and keep what its layers put out.

    Yields:
        A dict that after each forward pass holds the output of each layer, float32 [b, u, h, w]; vectors [b, u] are
        taken as maps of one cell. Whoever reads it takes them out.

    Raises:
        InputError: a layer does not exist or puts out no maps, or the network calls it more than once for an image.
    """
    found: dict[str, Tensor] = {}
    modules = find_layers(model, layers)

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if name in found:
                raise InputError(
                    f"layer={name}: the network calls it more than once for an image; name the module around it"
                )
            found[name] = as_maps(name, output)

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        with evaluating(model), torch.inference_mode():
            yield found
    finally:
        for handle in handles:
            handle.remove()


def as_maps(layer: str, output: Any) -> Tensor:
    """A layer's output as float32 [b, u, h, w], which nothing else writes to.

    Raises:
        InputError: it is no tensor of feature maps.
    """
    if not isinstance(output, Tensor) or output.dim() not in (2, 4):
        what = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"layer={layer} puts out {what}: feature maps [images, units, height, width] or vectors are expected"
        )
    maps = output if output.dim() == 4 else output[:, :, None, None]
    # A copy in any case: what follows may work in place, as torchvision's ReLUs do.
    return maps.detach().to(torch.float32, copy=True)
