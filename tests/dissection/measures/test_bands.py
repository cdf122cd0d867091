"""The five-band score: by hand, by the definition pixel by pixel, and what must hold for any map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from introspect.core.errors import InputError
from introspect.dissection.measures.bands import HARD, Sweep, bands, hard, normalised, scores

TRUTH = torch.tensor([[[0.0, 0.4], [0.9, 0.0]]])


def rgb(values: torch.Tensor) -> torch.Tensor:
    """An attribution whose channels sum to the values."""
    return torch.stack([values * 0.5, values * 0.75, values * -0.25], 1)


def by_definition(h: np.ndarray, h0: np.ndarray, t: np.ndarray) -> list[float]:
    """As it is written down, one image [3, h, w] and one setting at a time."""
    s = h.sum(0)
    s = s / np.abs(s).max() if np.abs(s).max() > 0 else s

    def cut(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        return np.select([x <= t[0], x <= t[1], x <= t[2], x <= t[3]], [-2, -1, 0, 1], 2)

    band, band0 = cut(s, t), cut(h0, np.array(HARD, np.float32))
    tp = ((band != 0) & (band == band0)).sum()
    fp = ((band != 0) & (band0 == 0)).sum() + ((band != 0) & (band0 != 0) & (band != band0)).sum()
    tn = ((band == 0) & (band0 == 0)).sum()
    fn = ((band == 0) & (band0 != 0)).sum()
    return [(band == band0).mean(), tp / (tp + fp + 1e-6), tp / (tp + fn + 1e-6), fp / (fp + tn + 1e-6)]


def test_bands_close_on_the_right() -> None:
    values = torch.tensor([-1, -0.7, -0.69, -0.3, -0.2, 0, 0.3, 0.31, 0.7, 0.71])
    assert bands(values, hard()[0]).tolist() == [-2, -2, -1, -1, 0, 0, 0, 1, 1, 2]


def test_a_perfect_map() -> None:
    found = scores(rgb(TRUTH), TRUTH, hard())
    assert [float(part) for part in found] == pytest.approx([1, 1, 1, 0], abs=1e-6)


def test_an_inverted_map() -> None:
    """What matters is marked, with the wrong sign: two false alarms beside two pixels of nothing."""
    found = scores(-rgb(TRUTH), TRUTH, hard())
    assert [float(part) for part in found] == pytest.approx([0.5, 0, 0, 0.5], abs=1e-6)


def test_a_map_of_nothing() -> None:
    """It is right where there is nothing, misses the rest, and raises no alarm."""
    found = scores(torch.zeros(1, 3, 2, 2), TRUTH, hard())
    assert [float(part) for part in found] == pytest.approx([0.5, 0, 0, 0], abs=1e-6)


def test_a_random_map() -> None:
    """Of uniform values a tenth and a half lie in each outer band, a fifth in each next one, three tenths within."""
    values = torch.rand(1, 400, 400, generator=torch.Generator().manual_seed(0)) * 2 - 1
    truth = torch.zeros(1, 400, 400)
    truth[:, :, :100], truth[:, :, 100:200] = 0.9, 0.4
    found = scores(rgb(values), truth, hard())
    assert float(found.accuracy) == pytest.approx(0.25 * 0.15 + 0.25 * 0.2 + 0.5 * 0.3, abs=0.01)
    assert float(found.false_positive_rate) == pytest.approx(0.6125 / 0.7625, abs=0.01)
    assert float(found.recall) == pytest.approx(0.0875 / (0.0875 + 0.15), abs=0.01)


def test_one_band_too_low_is_a_false_alarm() -> None:
    found = scores(rgb(torch.tensor([[[0.0, 0.4], [0.6, 1.0]]])), TRUTH, hard())
    # 0.4 is right, 0.6 is band 1 instead of 2, 1.0 is nothing in truth, 0 is right.
    assert [float(part) for part in found] == pytest.approx([0.5, 1 / 3, 1, 2 / 3], abs=1e-6)


def test_the_sign_of_the_sum_counts_and_not_that_of_a_channel() -> None:
    attribution = torch.tensor([[[[5.0, 1.0]], [[-5.0, 1.0]], [[0.0, -1.0]]]])
    assert normalised(attribution).tolist() == [[[0.0, 1.0]]]


def test_the_published_sweeps() -> None:
    first = Sweep().settings()
    assert first.shape == (56, 4)
    assert first[0].tolist() == pytest.approx([-0.5, -0.3, 0.3, 0.5])
    assert first[-1].tolist() == pytest.approx([-0.225, -0.025, 0.025, 0.225])
    second = Sweep(HARD).settings()
    assert second[-1].tolist() == pytest.approx([-0.425, -0.025, 0.025, 0.425])


@pytest.mark.parametrize(
    "options",
    [{"steps": 61}, {"start": (-0.5, 0.1, 0.3, 0.5)}, {"start": (-0.5, -0.3, 0.5, 0.3)}, {"steps": 0}, {"delta": -0.1}],
)
def test_thresholds_stay_on_their_side_of_zero(options: dict) -> None:
    with pytest.raises(InputError, match=r"thresholds=|delta="):
        Sweep(**options)


def test_impossible_scores() -> None:
    with pytest.raises(InputError, match="not finite"):
        scores(torch.full((1, 3, 2, 2), torch.nan), TRUTH, hard())
    with pytest.raises(InputError, match=r"\[1, 3, 4, 4\] does not fit a truth of \[1, 2, 2\]"):
        scores(torch.zeros(1, 3, 4, 4), TRUTH, hard())


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 8), st.booleans())
@settings(max_examples=40)
def test_equals_the_definition_at_every_setting(seed: int, n: int, side: int, on_edges: bool) -> None:
    random = np.random.default_rng(seed)
    h = random.normal(size=(n, 3, side, side)).astype(np.float32)
    if on_edges:  # values exactly on thresholds
        h = random.choice(np.array([0, 0.125, -0.25, 0.5, 1], np.float32), size=h.shape)
    h0 = random.choice(np.array([0, 0.4, 0.9], np.float32), size=(n, side, side))
    sweep = Sweep((-0.5, -0.25, 0.25, 0.5), 0.0625, 3).settings()
    found = scores(torch.from_numpy(h), torch.from_numpy(h0), sweep)
    for image in range(n):
        for k, t in enumerate(sweep.numpy()):
            expected = by_definition(h[image], h0[image], t)
            assert [float(part[image, k]) for part in found] == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 2**31), st.floats(0.01, 100))
@settings(max_examples=30)
def test_shares_and_scale(seed: int, factor: float) -> None:
    """All lie between 0 and 1; a power of two as a factor changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    attribution = torch.randn(2, 3, 6, 6, generator=generator)
    truth = torch.tensor([0, 0.4, 0.9])[torch.randint(3, (2, 6, 6), generator=generator)]
    found = scores(attribution, truth, Sweep().settings())
    assert all(((part >= 0) & (part <= 1)).all() for part in found)
    scaled = scores(attribution * 2.0 ** round(np.log2(factor)), truth, Sweep().settings())
    assert all(torch.equal(a, b) for a, b in zip(found, scaled, strict=True))
