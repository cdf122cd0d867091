"""Python objects from all ranks, for what is no tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch.distributed

T = TypeVar("T")


def gather(items: Sequence[T]) -> list[T]:
    """The items of all ranks, rank by rank; every rank gets all of them and must take part."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(items)
    parts: list[Sequence[T]] = [()] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, list(items))
    return [item for part in parts for item in part]
