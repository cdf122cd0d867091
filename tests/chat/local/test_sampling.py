from __future__ import annotations

from typing import Any

import pytest
import torch

from introspect.chat.local.sampling import draw

SETTINGS = [(0.6, 0.95, 20), (1.0, 1.0, 0), (0.3, 0.5, 0), (2.0, 1.0, 3), (1.0, 0.01, 0), (1.0, 0.9, 1), (5.0, 1.0, 99)]


def test_draws_have_the_shares_of_transformers_warpers() -> None:
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    torch.manual_seed(0)
    ids: Any = None  # These warpers look at the logits alone.
    grid = (torch.arange(2000) + 0.5) / 2000
    logits = torch.randn(len(SETTINGS), 50) * 3
    for (temperature, top_p, top_k), row in zip(SETTINGS, logits, strict=True):
        warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
        if top_k:
            warpers.append(TopKLogitsWarper(top_k))
        warpers.append(TopPLogitsWarper(top_p))
        shares = warpers(ids, row[None]).softmax(-1)[0]
        ones = torch.ones(2000)
        tokens = draw(row.expand(2000, -1), ones * temperature, ones * top_p, ones.long() * top_k, grid)
        counts = torch.bincount(tokens, minlength=50)
        # An evenly spaced grid gives each token its share, up to one grid point at either end of its interval.
        assert (counts - shares * 2000).abs().max() <= 2, (temperature, top_p, top_k)
        assert not counts[shares == 0].any()


def test_rows_are_drawn_each_by_its_own_settings() -> None:
    torch.manual_seed(0)
    logits = torch.randn(len(SETTINGS) + 1, 50) * 2
    temperature, top_p, top_k = (torch.tensor(column) for column in zip(*SETTINGS, (0.0, 1.0, 0), strict=True))
    uniform = torch.rand(len(logits))
    together = draw(logits, temperature, top_p, top_k, uniform)
    for row in range(len(logits)):
        alone = slice(row, row + 1)
        assert draw(*(t[alone] for t in (logits, temperature, top_p, top_k, uniform))) == together[row]
    assert together[-1] == logits[-1].argmax()


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_extreme_numbers_stay_inside_what_is_kept(uniform: float) -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0, -torch.inf]])
    one = torch.ones(1)
    drawn = [
        draw(logits, one, one * top_p, torch.tensor([top_k]), one * uniform).item()
        for top_p, top_k in [(1.0, 0), (1.0, 2), (0.5, 0)]
    ]
    assert drawn == {0.0: [1, 1, 1], 0.5: [1, 1, 1], 1 - 2**-24: [0, 2, 1]}[uniform]


def test_greedy_takes_the_first_of_equals() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0], [7.0, 7.0, 7.0]])
    zero = torch.zeros(2)
    assert draw(logits, zero, zero + 1, zero.long(), zero).tolist() == [1, 0]
    mixed = draw(logits, torch.tensor([0.0, 1.0]), zero + 1, zero.long(), zero + 0.99)
    assert mixed[0] == 1


def test_half_precision_logits_are_drawn_in_single() -> None:
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    one = torch.ones(4)
    both = [draw(each, one, one, one.long() * 0, one * 0.7) for each in (logits, logits.float())]
    assert torch.equal(*both)
