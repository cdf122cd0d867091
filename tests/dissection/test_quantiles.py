"""The streaming quantile, against sorting everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from introspect.dissection import quantiles
from introspect.dissection.quantiles import UpperQuantile


def streamed(data: torch.Tensor, quantile: float, piece: int) -> UpperQuantile:
    stream = UpperQuantile(quantile, data.shape[1])
    for part in data.split(piece, dim=1):
        stream.add(part)
    return stream


@pytest.mark.parametrize("room", [1, 3, 4096])
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    quantile=st.floats(0.001, 0.999),
    piece=st.integers(1, 20),
)
@settings(max_examples=100)
def test_it_is_that_of_numpy(room: int, values: list[float], quantile: float, piece: int) -> None:
    data = torch.tensor([values, values[::-1]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantiles, "_LEAST_ROOM", room)
        found = streamed(data, quantile, piece).thresholds()
    expected = np.quantile(np.array(values, np.float64), 1 - quantile)
    assert found.numpy() == pytest.approx(expected, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("kind", ["random", "rising", "falling", "ties"])
def test_long_streams_choose_many_times(device: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantiles, "_LEAST_ROOM", 16)
    data = torch.randn(5, 20001, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 6)[:, None]
    if kind in ("rising", "falling"):
        data = data.sort(dim=1, descending=kind == "falling").values
    if kind == "ties":
        data = data.round().relu()
    with torch.inference_mode():  # as in the engine, which asks for the thresholds outside of it
        stream = streamed(data.to(device), 0.005, 333)
    # 0.005 * 20000 = 100 values are above it, so it is the 101st largest, without interpolation.
    expected = data.double().kthvalue(20001 - 100, dim=1).values
    assert torch.equal(stream.thresholds(), expected)


def test_values_below_the_floor_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-way through a long stream most batches cost a comparison: nothing is sorted."""
    chosen = []
    choose = UpperQuantile._choose
    monkeypatch.setattr(UpperQuantile, "_choose", lambda self: (chosen.append(self._seen), choose(self)))
    data = torch.randn(2, 400_000, generator=torch.Generator().manual_seed(0))
    stream = streamed(data, 0.005, 1000)
    expected = np.quantile(data.double().numpy(), 0.995, axis=1)
    assert stream.thresholds().numpy() == pytest.approx(expected, rel=1e-12)
    assert len(chosen) <= 8


def test_another_number_of_values_than_announced_is_refused() -> None:
    stream = UpperQuantile(0.5, 4)
    stream.add(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="3 values per unit came, 4 were announced"):
        stream.thresholds()
