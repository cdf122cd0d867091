"""How much memory an action takes, for the other benchmarks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

_SELF = Path("/proc/self")


def peak(action: Callable[[], object], device: str = "cpu") -> float:
    """Run an action once; returns the megabytes (2^20 bytes) that it held at the most beyond those held before.

    On a GPU those that torch has allocated, else those of the process, which only Linux tells: elsewhere nan.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not (_SELF / "clear_refs").exists():
        action()
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # what was freed earlier would be taken anew, unseen
    (_SELF / "clear_refs").write_text("5")  # forgets the peak, see proc(5)
    before = _kilobytes("VmRSS")
    action()
    return (_kilobytes("VmHWM") - before) / 2**10


def _kilobytes(field: str) -> int:
    lines = (_SELF / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
