from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import nn

from introspect.core.errors import InputError
from introspect.core.inference import chosen_device, device_of, evaluating, float64_device


def test_every_module_gets_its_own_mode_back() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    network[1][0].eval()
    with suppress(ZeroDivisionError), evaluating(network):
        assert not any(module.training for module in network.modules())
        _ = 1 / 0
    assert [module.training for module in network.modules()] == [True, True, True, False, True]


def test_a_device_that_is_not_there_is_refused() -> None:
    assert chosen_device("cpu") == torch.device("cpu")
    assert chosen_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="device=gpu: expected auto, cpu, cuda, cuda:1, … or mps"):
        chosen_device("gpu")
    with pytest.raises(InputError, match="device=cuda:99: this machine has none"):
        chosen_device("cuda:99")


def test_where_a_network_is_and_where_it_is_summed() -> None:
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")
    assert float64_device(torch.device("mps")) == torch.device("cpu")
    assert float64_device(torch.device("cuda:1")) == torch.device("cuda:1")
