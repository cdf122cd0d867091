"""What tests of several objectives share."""

from __future__ import annotations

import torch
from torch.autograd import gradcheck

from introspect.vision.features import Features


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def total(objective, student, teacher, targets, indices=None):
    """The loss of features that are given as (logits, {layer: maps})."""
    return sum(objective(Features(*student), Features(*teacher), targets, indices).values())


def same(ours, theirs, tolerance=1e-6):
    torch.testing.assert_close(ours, theirs.to(ours.dtype).reshape(ours.shape), rtol=tolerance, atol=1e-9)


def slopes(loss, *inputs):
    """The gradients of a loss; refuses one that is constant."""
    found = torch.autograd.grad(loss, inputs)
    assert all(slope.abs().max() > 0 for slope in found)
    return found


def agrees_with_differences(function, *inputs):
    """Whether the gradients are those of finite differences, in float64."""
    inputs = [value.double().requires_grad_() for value in inputs]
    slopes(function(*inputs), *inputs)
    return gradcheck(function, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)
