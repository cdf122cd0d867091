"""Seeds and random streams that only names and numbers decide: the same on every machine, in any order.

Everything random in this project comes from a seed of `derived_seed`, or is a number of a stream of `uniforms`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

# SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014), as signed numbers.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


def derived_seed(*parts: object, size: int = 7, order: Literal["big", "little"] = "big") -> int:
    """Derive a seed from names and numbers; seeds of different parts, such as (0, 1) and (1, 0), are unrelated.

    Args:
        parts: texts, numbers or tuples of numbers; their texts with `/` between them are hashed by BLAKE2b.
        size: bytes of the seed; 7 fit into every generator.
        order: of the bytes of the hash.

    Returns:
        A number from 0 to below 256 ** `size`.
    """
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest(), order)


def row_seed(seed: int, sample: int, prompt_ids: Sequence[int]) -> int:
    """Derive the signed 64-bit seed of one response from its request's seed, its sample number and its prompt's tokens.

    By SHA-256, unlike `derived_seed`: another hash would draw other responses than those in users' stores.
    """
    text = f"{seed} {sample} {' '.join(map(str, prompt_ids))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def stream(seeds: Tensor, positions: Tensor) -> Tensor:
    """Return number `positions` of the random streams `seeds`: [n] and [n] int64 -> [n] int64.

    The streams are SplitMix64's, which can be entered anywhere: no state, no loop, no difference between devices.
    """
    z = seeds + (positions + 1) * _GAMMA
    z = (z ^ _shift_right(z, 30)) * _MIX[0]
    z = (z ^ _shift_right(z, 27)) * _MIX[1]
    return z ^ _shift_right(z, 31)


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """Return numbers of `stream` as float32 in [0, 1): [n] and [n] int64 -> [n]."""
    return _shift_right(stream(seeds, positions), 40).float() * 2.0**-24


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """The unsigned shift that 64-bit integers lack here: `>>` would copy the sign downwards."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
