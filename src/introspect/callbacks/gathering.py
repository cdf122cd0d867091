"""Python objects between processes, however long they wait for each other.

What is gathered here is made in minutes or hours, and not at the same pace everywhere. The processes meet in a group of
their own, because the one of the training gives up after half an hour, and should: there it means that one hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed

T = TypeVar("T")

PATIENCE = timedelta(days=7)  # a process that dies ends the waiting at once: its connections close

_groups: dict[Any, Any] = {}  # of each process group of a training, ours


def gather(items: Sequence[T]) -> list[T]:
    """The items of all ranks, rank by rank; every rank gets all of them and must take part."""
    if (group := _patient()) is None:
        return list(items)
    parts: list[Sequence[T]] = [()] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, list(items), group=group)
    return [item for part in parts for item in part]


def by_first(work: Callable[[], T]) -> T:
    """What the first rank makes, for all; every rank must take part, and waits.

    Raises:
        Exception: in the first rank, what its work raised; in the others a RuntimeError that says so. None waits for
            what will not come.
    """
    if (group := _patient()) is None:
        return work()
    found: list[Any] = [None, None]
    failure: BaseException | None = None
    if torch.distributed.get_rank() == 0:
        try:
            found[0] = work()
        except BaseException as error:  # noqa: BLE001 - the others wait, whatever it is
            found[1], failure = f"{type(error).__name__}: {error}", error
    torch.distributed.broadcast_object_list(found, src=0, group=group)
    if failure is not None:
        raise failure
    if found[1] is not None:
        raise RuntimeError(f"the first process failed: {found[1]}")
    result: T = found[0]
    return result


def _patient() -> Any:
    """The group in which processes may wait long; None where there is only one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    whole = torch.distributed.group.WORLD
    if whole not in _groups:
        _groups.clear()
        _groups[whole] = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    return _groups[whole]
