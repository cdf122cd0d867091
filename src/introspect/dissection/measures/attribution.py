"""Attributions: how much each pixel contributes to a class, by the methods of Captum; and plain gradients.

Every method gets pixels from 0 to 1, so that the baseline of those that have one is a black image, as in the reference
of the five-band score. Guided backpropagation, deconvolution and DeepLift hook the modules of ReLUs, and would silently
give plain gradients where a network calls a function, or one module twice: so they get a traced copy of the network in
which each call of a ReLU is a module.

Shapes: n images, h x w pixels.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, fx, nn
from torch.nn import functional

from introspect.core.errors import InputError, first_line
from introspect.dissection.measures.base import library
from introspect.dissection.measures.images import PixelNetwork
from introspect.dissection.options import as_names, whole_number

Gradient = Literal["loss", "logit"]

_BASELINES, _SPREAD = 4, 1e-3  # of the methods with several baselines: as published
_RELUS = (torch.relu, torch.relu_, functional.relu, functional.relu_)


@dataclass(frozen=True, slots=True)
class Method:
    """A method of Captum.

    Attributes:
        name: its class in `captum.attr`.
        relu_modules: whether it hooks ReLUs, so that each call of one must be a module.
        baselines: whether it takes several random baselines.
    """

    name: str
    relu_modules: bool = False
    baselines: bool = False


METHODS = {
    "saliency": Method("Saliency"),
    "input_x_gradient": Method("InputXGradient"),
    "integrated_gradients": Method("IntegratedGradients"),
    "deep_lift": Method("DeepLift", relu_modules=True),
    "deep_lift_shap": Method("DeepLiftShap", relu_modules=True, baselines=True),
    "gradient_shap": Method("GradientShap", baselines=True),
    "guided_backprop": Method("GuidedBackprop", relu_modules=True),
    "deconvolution": Method("Deconvolution", relu_modules=True),
    "guided_grad_cam": Method("GuidedGradCam", relu_modules=True),
}


class Attribution:
    """Attributes classes to pixels by several methods of Captum.

    Args:
        model: takes in pixels from 0 to 1; in evaluation mode.
        methods: of `METHODS`.
        layer: the convolution of guided Grad-CAM; None takes the last one.
        steps: of integrated gradients.
        seed: of the baselines of the methods that have several.

    Raises:
        InputError: Captum is not installed, there is no such method or layer, or a method needs a network that torch.fx
            can trace, and it cannot.
    """

    def __init__(
        self,
        model: PixelNetwork,
        methods: str | Sequence[str],
        *,
        layer: str | None = None,
        steps: int = 50,
        seed: int = 0,
    ) -> None:
        self.methods = check_methods(methods)
        self._captum = library("captum.attr", "attributions are made by Captum")
        self._model = self._traced = model
        self._compared = False
        self._steps, self._seed = whole_number("steps", steps, 1), seed
        if needy := [method for method in self.methods if METHODS[method].relu_modules]:
            self._traced = PixelNetwork(with_relu_modules(model.network, needy), model.prepare)
        self._layer = _convolution(self._traced.network, layer) if "guided_grad_cam" in self.methods else None

    def __call__(self, method: str, pixels: Tensor, targets: Tensor) -> Tensor:
        """Return how much each value contributes to its image's target.

        Args:
            method: one of those that were named.
            pixels: from 0 to 1, float [n, 3, h, w].
            targets: class of each image, int64 [n].

        Returns:
            Float [n, 3, h, w].
        """
        chosen = METHODS[method]
        self._compare(method, pixels)
        network: list[nn.Module | None] = [self._traced if chosen.relu_modules else self._model]
        if method == "guided_grad_cam":
            network.append(self._layer)
        options: dict[str, Any] = {"target": targets}
        if chosen.baselines:
            numbers = torch.Generator().manual_seed(self._seed)
            baselines = torch.randn(_BASELINES, *pixels.shape[1:], generator=numbers)
            options["baselines"] = baselines.to(pixels.device) * _SPREAD
        if method == "integrated_gradients":
            options |= {"n_steps": self._steps, "internal_batch_size": 4 * len(pixels)}
        with warnings.catch_warnings(), isolate_rng(), torch.enable_grad():
            warnings.simplefilter("ignore")  # Captum warns of its hooks at each call
            torch.manual_seed(self._seed)
            np.random.seed(self._seed)  # noqa: NPY002 - Captum draws from both
            explainer = getattr(self._captum, chosen.name)(*network)
            found: Tensor = explainer.attribute(pixels.clone().requires_grad_(), **options)
        return found.detach()

    @torch.no_grad()
    def _compare(self, method: str, pixels: Tensor) -> None:
        """Check once that the traced network computes the same as the network."""
        if self._compared or self._traced is self._model or not METHODS[method].relu_modules:
            return
        self._compared = True
        if not torch.allclose(self._traced(pixels), self._model(pixels), rtol=1e-3, atol=1e-4):
            raise InputError(
                f"methods={method}: the network puts out something else with each ReLU as a module of its own; one "
                "that works in place on what is read again cannot be explained by this method"
            )


def check_methods(methods: str | Sequence[str]) -> tuple[str, ...]:
    """Return the methods, if all of them are known.

    Raises:
        InputError: one is not, or there are none.
    """
    named = as_names(methods)
    for method in named:
        if method not in METHODS:
            close = difflib.get_close_matches(method, METHODS, n=2)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise InputError(f"methods={method}: expected some of {', '.join(METHODS)}{hint}")
    if not named:
        raise InputError(f"methods: name at least one of {', '.join(METHODS)}")
    return named


def with_relu_modules(network: nn.Module, methods: Sequence[str] = ()) -> fx.GraphModule:
    """Trace a copy that shares the weights of a network, in which every call of a ReLU is a module of its own.

    Raises:
        InputError: torch.fx cannot trace the network, or there is no ReLU in it.
    """
    why = f"methods={','.join(methods)}" if methods else "this method"
    try:
        traced = fx.symbolic_trace(network)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{why}: needs a network that torch.fx can trace: {first_line(error)}") from error
    modules, count = dict(traced.named_modules()), 0
    for node in list(traced.graph.nodes):
        if not _is_relu(node, modules):
            continue
        name, count = f"relu_{count}_of_call", count + 1
        traced.add_submodule(name, nn.ReLU())
        with traced.graph.inserting_after(node):
            called = traced.graph.call_module(name, (node.args[0] if node.args else node.kwargs["input"],))
        node.replace_all_uses_with(called)
        traced.graph.erase_node(node)
    if not count:
        raise InputError(f"{why}: follows the ReLUs of a network, and this one has none")
    traced.recompile()
    return traced.train(network.training)


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.ReLU)
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return node.op == "call_function" and node.target in _RELUS


def _convolution(network: nn.Module, layer: str | None) -> nn.Module:
    found = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    if not found or (layer is not None and layer not in found):
        close = difflib.get_close_matches(layer or "", found, n=3, cutoff=0.3) or list(found)[-3:]
        what = f"; convolutions are {', '.join(close)}" if found else ", and this network has none"
        raise InputError(f"layer={layer}: methods=guided_grad_cam needs a convolution{what}")
    return found[layer] if layer is not None else list(found.values())[-1]


def gradients(model: nn.Module, pixels: Tensor, classes: Tensor, of: Gradient = "loss") -> tuple[Tensor, Tensor]:
    """Return the derivative of each image's own loss or logit by its pixels.

    Args:
        model: takes in pixels from 0 to 1; in evaluation mode, so that images do not affect each other.
        pixels: float [n, 3, h, w].
        classes: the true ones, int64 [n].
        of: `loss` (cross-entropy) or `logit` (of the true class).

    Returns:
        The derivatives, float [n, 3, h, w], and the logits [n, classes].

    Raises:
        InputError: a derivative is not finite.
    """
    with torch.enable_grad():
        inputs = pixels.detach().clone().requires_grad_()
        logits = model(inputs)
        if of == "loss":
            value = functional.cross_entropy(logits, classes, reduction="sum")
        else:
            value = logits.gather(1, classes[:, None]).sum()
        (found,) = torch.autograd.grad(value, inputs)
    if not found.isfinite().all():
        raise InputError("the network's gradients are not finite")
    return found, logits.detach()
