"""Batch norm over all processes on CPUs, where torch's own knows GPUs only: a rehearsal of what GPUs do."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class CPUSyncBatchNorm(LayerSync):
    """What `sync_batchnorm=true` is on GPUs: mean and variance of a training step are those over all processes.

    A plugin of Lightning's trainer. Weights and their names stay as they are.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Let the batch norms of a model look at all processes."""
        for module in model.modules():
            if isinstance(module, _BatchNorm) and not isinstance(module, _Synchronized):
                kind = type(module)
                module.__class__ = type(f"Synchronized{kind.__name__}", (_Synchronized, kind), {"kind": kind})
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Let each look at its own process again."""
        for module in model.modules():
            if isinstance(module, _Synchronized):
                module.__class__ = module.kind  # type: ignore[assignment]
        return model


class _Synchronized(_BatchNorm):
    kind: type[_BatchNorm]

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [b, c, …] by the b images of all processes, while training."""
        if not (self.training and distributed.is_initialized()):
            return super().forward(input)
        among = [dimension for dimension in range(input.ndim) if dimension != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        count = _sum_of_all(input.new_tensor([input.numel() / input.shape[1]]))
        mean = _sum_of_all(input.sum(among)) / count  # [c]
        centred = input - mean.view(shape)
        variance = _sum_of_all(centred.square().sum(among)) / count  # [c]
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        return normalised * self.weight.view(shape) + self.bias.view(shape) if self.affine else normalised

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Bring the running statistics [c] up to date."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)


class _SumOfAll(torch.autograd.Function):
    """The sum over processes; each process's part gets the gradients of all."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total


def _sum_of_all(part: Tensor) -> Tensor:
    total: Tensor = _SumOfAll.apply(part)
    return total
