from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.core.seeds import derived_seed, row_seed, stream, uniforms

MASK = (1 << 64) - 1
int64 = st.integers(-(2**63), 2**63 - 1)


def splitmix64(seed: int, position: int) -> int:
    """Output `position` of SplitMix64, in Python's unbounded integers."""
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_seeds_stay_what_they_are() -> None:
    """Images, splits, orders and stored responses depend on these values."""
    assert derived_seed((42, 0, 3, 17)) == 53764224082144122
    assert derived_seed(42, 3) == 61514175699804919
    assert derived_seed("n03/é.png", size=4) == 37534219
    assert derived_seed("cells", 0, "train", size=16, order="little") == 326210078760199980496510941989650969750
    assert row_seed(42, 1, [5, 6]) == 5389837422042634755


def test_seeds_of_different_parts_are_unrelated() -> None:
    seeds = {derived_seed((first, second)) for first in range(50) for second in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**56 for seed in seeds)


def test_uniforms_are_the_published_stream() -> None:
    # The first outputs for seed 0, as published with the generator.
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    drawn = uniforms(torch.zeros(3, dtype=torch.long), torch.arange(3))
    assert drawn.tolist() == [(value >> 40) / 2**24 for value in published]
    whole = stream(torch.zeros(3, dtype=torch.long), torch.arange(3))
    assert [number & MASK for number in whole.tolist()] == published


@given(int64, st.integers(0, 2**31))
def test_uniforms_match_unbounded_integers(seed: int, position: int) -> None:
    drawn = uniforms(torch.tensor([seed]), torch.tensor([position]))
    assert drawn.item() == (splitmix64(seed & MASK, position) >> 40) / 2**24


def test_uniforms_fill_the_interval() -> None:
    seeds = torch.tensor([row_seed(42, sample, [1, 2, 3]) for sample in range(100)])
    drawn = uniforms(seeds.repeat_interleave(100), torch.arange(100).repeat(100))
    counts = torch.histc(drawn, bins=10, min=0, max=1)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    # 10,000 draws in 10 bins: standard deviation 30.
    assert (counts - 1000).abs().max() < 150


def test_row_seed_depends_on_all_that_is_given() -> None:
    seeds = [row_seed(*case) for case in [(1, 0, [12]), (2, 0, [12]), (1, 1, [12]), (1, 0, [1, 2]), (1, 0, [12, 0])]]
    assert len(set(seeds)) == 5
    assert row_seed(1, 0, [12]) == seeds[0]
