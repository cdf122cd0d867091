"""Run a network and leave it as it was: which device it runs on, and evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from introspect.core.errors import InputError

AUTO = "auto"


def chosen_device(name: str) -> torch.device:
    """Return the device that an option names; `auto` takes a CUDA GPU where there is one.

    Raises:
        InputError: this machine has no such device.
    """
    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise InputError(f"device={name}: expected auto, cpu, cuda, cuda:1, … or mps") from None
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there.get(device.type, 0):
        raise InputError(f"device={name}: this machine has none; device=auto takes what there is")
    return device


def device_of(model: nn.Module) -> torch.device:
    """Return where the weights of a network are; the CPU if it has none."""
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def float64_device(device: torch.device) -> torch.device:
    """Return where to sum in float64 what was computed on a device: MPS has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


@contextmanager
def moved(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Keep a network on a device, and move it back afterwards."""
    home = device_of(model)
    try:
        model.to(device)
        yield
    finally:
        model.to(home)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Keep a network in evaluation mode, and put each of its modules back into its own mode afterwards.

    Gradients are a separate matter: add `torch.no_grad()` where none are wanted.
    """
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True
