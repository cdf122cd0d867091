"""Parts of a transformer whose gradients are written out, for training on CPUs.

transformers writes a norm as six operations and a rotation by positions as five; their gradients take two or three
times as many, each a pass over the hidden states, on which a narrow network spends much of its training step. On a GPU
a compiler or Liger's kernels do the same.

Legend: d width of what is normalised or rotated, b sequences, h heads, s tokens.
"""

from __future__ import annotations

from functools import cache, partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_ROTATION = "apply_rotary_pos_emb"  # what transformers calls it, in the module of every family that has it


class _RootMeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        inverse = (length * length).div_(states.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(states, weight, inverse)
        return (states * inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        states, weight, inverse = ctx.saved_tensors
        width, wanted = states.shape[-1], list(ctx.needs_input_grad[:2])
        # Of a layer norm that takes the mean for 0: all that is missing is what the mean would have taken away.
        of_states, of_weight, _ = torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(), states, [width], torch.zeros_like(inverse), inverse, weight, None, [*wanted, False]
        )
        if wanted[0]:
            with torch.autocast("cpu", enabled=False):
                along = grad @ weight
            of_states.add_(along[..., None].mul_(inverse).div_(width))
        return of_states if wanted[0] else None, of_weight if wanted[1] else None, None


def root_mean_square_norm(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`states / sqrt(mean(states^2) + eps) * weight` over the last dimension: [..., d], [d] -> [..., d].

    Zhang, Sennrich, Root Mean Square Layer Normalization, NeurIPS 2019, equation 4. Can be differentiated once.
    """
    return _RootMeanSquare.apply(states, weight, eps)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(states, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        half = sin.shape[-1] // 2
        return _turn(grad, cos, -sin.roll(half, -1)), None, None


def _turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = states.shape[-1] // 2
    turned = states * cos
    turned[..., :half].addcmul_(states[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(states[..., :half], sin[..., half:])
    return turned


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Queries and keys turned by their positions, each dimension of the first half with one of the second.

    Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, equation 34, in the order of
    dimensions that transformers has. Can be differentiated once, and not by the angles.

    Args:
        q, k: [b, h, s, d], each with its own number of heads.
        cos, sin: of the angles, [b, s, d] or [1, s, d].
        unsqueeze_dim: where the heads are.
    """
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _Rotation.apply(q, cos, sin), _Rotation.apply(k, cos, sin)


def use_kernels(network: nn.Module) -> tuple[int, int]:
    """Let a transformers network compute its norms and rotations in this way, where gradients are wanted, in float32.

    Others of their kind (norms with a bias or with 1 + weight, rotations of neighbouring dimensions) stay as they are,
    and so do other networks of the process.

    Returns:
        How many norms, and how many attentions, do so now.
    """
    norms = [module for module in network.modules() if _is_plain_norm(module)]
    attentions = [module for module in network.modules() if _rotates_plainly(module)]
    for norm in norms:
        norm.forward = partial(_norm_forward, norm)  # no method, which could not be pickled
    for attention in attentions:
        attention.forward = partial(_attention_forward, attention)
    return len(norms), len(attentions)


def _norm_forward(norm: Any, hidden_states: Tensor) -> Tensor:
    if torch.is_grad_enabled() and hidden_states.dtype == norm.weight.dtype == torch.float32:
        return root_mean_square_norm(hidden_states, norm.weight, norm.variance_epsilon)
    return type(norm).forward(norm, hidden_states)


def _attention_forward(attention: Any, hidden_states: Tensor, *args: Any, **options: Any) -> Any:
    forward = type(attention).forward
    if torch.is_grad_enabled() and hidden_states.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
        forward = _with_rotate(forward)
    return forward(attention, hidden_states, *args, **options)


@cache
def _with_rotate(forward: Any) -> Any:
    """The same function, for which the name of the rotation means ours; other names mean what they mean now."""
    theirs = forward.__globals__[_ROTATION]

    def rotation(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **options: Any) -> Any:
        # Some families turn a part of the dimensions.
        whole = cos.shape[-1] == q.shape[-1] == k.shape[-1]
        return (rotate if whole else theirs)(q, k, cos, sin, *args, **options)

    names = {**forward.__globals__, _ROTATION: rotation}
    changed = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    changed.__kwdefaults__ = forward.__kwdefaults__
    return changed


def _is_plain_norm(module: nn.Module) -> bool:
    """Whether a module computes what `root_mean_square_norm` does: tried, since families differ under one name."""
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not type(module).__name__.endswith("RMSNorm") or weight is None or weight.ndim != 1 or eps is None:
        return False
    probe = torch.linspace(-2, 3, 2 * len(weight), device=weight.device, dtype=weight.dtype).view(2, -1)
    with torch.no_grad():
        return torch.allclose(module.forward(probe), root_mean_square_norm(probe, weight, eps), rtol=1e-4, atol=1e-6)


def _rotates_plainly(module: nn.Module) -> bool:
    """Whether a module turns queries and keys by a function of its family that does what `rotate` does."""
    forward = type(module).forward
    code, theirs = getattr(forward, "__code__", None), getattr(forward, "__globals__", {}).get(_ROTATION)
    if theirs is None or code is None or _ROTATION not in code.co_names:
        return False
    q, k = torch.linspace(-2, 3, 24).view(1, 2, 3, 4), torch.linspace(1, -1, 12).view(1, 1, 3, 4)
    angles = torch.linspace(0, 2, 6).view(1, 3, 2).repeat(1, 1, 2)
    try:
        given = theirs(q, k, angles.cos(), angles.sin())
    except (TypeError, ValueError, RuntimeError):  # takes something else
        return False
    wanted = rotate(q, k, angles.cos(), angles.sin())
    return [each.shape for each in given] == [each.shape for each in wanted] and all(map(torch.allclose, given, wanted))
