"""Options of a dissection, checked before any image is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from introspect.core.errors import InputError
from introspect.dissection.tally import PRESENCES, Presence

Control = Literal["rotation", "labels"]

CONTROLS: tuple[Control, ...] = ("rotation", "labels")
QUANTILE = 0.005
IOU_THRESHOLD = 0.05


@dataclass(frozen=True, slots=True)
class Rules:
    """How detectors are counted.

    Attributes:
        quantile: fraction of cells above a unit's threshold.
        iou_threshold: smallest IoU of a detector.
        presence: in which images a category counts, see `tally`.

    Raises:
        InputError: one of them is impossible.
    """

    quantile: float = QUANTILE
    iou_threshold: float = IOU_THRESHOLD
    presence: Presence = "lite"

    def __post_init__(self) -> None:
        if not _is_number(self.quantile) or not 0 < self.quantile < 1:
            raise InputError(f"quantile={self.quantile}: expected a fraction between 0 and 1, such as {QUANTILE}")
        if not _is_number(self.iou_threshold) or not 0 < self.iou_threshold <= 1:
            raise InputError(f"iou_threshold={self.iou_threshold}: expected a number up to 1, such as {IOU_THRESHOLD}")
        if self.presence not in PRESENCES:
            raise InputError(f"presence={self.presence}: expected {' or '.join(PRESENCES)}")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a dissection runs, and what it does besides counting a layer; see `engine.dissect`.

    Raises:
        InputError: one of them is impossible.
    """

    controls: tuple[Control, ...] = ()
    rotations: int = 1
    examples: int = 0
    batch_size: int = 32
    num_workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [control for control in self.controls if control not in CONTROLS]:
            raise InputError(f"controls={unknown[0]}: expected {' or '.join(CONTROLS)}")
        for name, least in (("rotations", 1), ("examples", 0), ("batch_size", 1), ("num_workers", 0), ("seed", 0)):
            whole_number(name, getattr(self, name), least)


def whole_number(name: str, value: object, least: int) -> int:
    """Return the value of an option that is a whole number.

    Raises:
        InputError: it is not, or is too small.
    """
    if type(value) is not int or value < least:
        raise InputError(f"{name}={value}: expected a whole number from {least}")
    return value


def as_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return one name or several as a tuple, each once, in their order; None is no name."""
    return tuple(dict.fromkeys([names] if isinstance(names, str) else names or ()))


def as_controls(controls: str | Sequence[str] | None) -> tuple[Control, ...]:
    """Return names of controls; `RunOptions` refuses those that are not."""
    return cast("tuple[Control, ...]", as_names(controls))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
