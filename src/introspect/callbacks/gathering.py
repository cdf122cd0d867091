"""Exchange Python objects between processes that wait for each other for hours.

Rollouts and measures take minutes or hours, and a different time in each process. The processes use a process group of
their own, because that of the training times out after half an hour, as it should: there, a wait means that one hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch.distributed

T = TypeVar("T")

TIMEOUT = timedelta(days=7)  # a process that dies ends the wait at once: its connections close


def gather(items: Sequence[T]) -> list[T]:
    """Return the items of all ranks, rank by rank; every rank must call it and gets all of them."""
    if (group := _group()) is None:
        return list(items)
    parts: list[Sequence[T]] = [()] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, list(items), group=group)
    return [item for part in parts for item in part]


def by_first(work: Callable[[], T]) -> T:
    """Return the result of the first rank, in all; every rank must call it, and waits.

    Raises:
        Exception: in the first rank, what its work raised; in the others a RuntimeError that names it, so that none
            waits forever.
    """
    if (group := _group()) is None:
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


def _group() -> Any:
    """Return the group in which processes may wait long; None if there is only one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    return _waiting_group(torch.distributed.group.WORLD)


@lru_cache(maxsize=1)
def _waiting_group(world: Any) -> Any:
    """Make the group once for each training, which `world` identifies."""
    return torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)
