"""The published losses: as golden values, and as the package itself where it is installed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def golden(shared):
    """Name to (case, inputs, outputs)."""
    arrays = np.load(shared / "golden" / "kd_losses_dev.npz")
    cases = json.loads((shared / "golden" / "kd_losses_dev.json").read_text())["cases"]
    cases = cases if isinstance(cases, list) else list(cases.values())

    def read(case, kind):
        prefix = f"{case}/{kind}/"
        return {name.removeprefix(prefix): torch.tensor(arrays[name]) for name in arrays if name.startswith(prefix)}

    return {case["name"]: (case, read(case["name"], "in"), read(case["name"], "out")) for case in cases}


@pytest.fixture(scope="session")
def reference():
    """The losses of torchdistill."""
    pytest.importorskip("torchdistill", reason="needs torchdistill, to compare losses with: uv sync")
    from torchdistill.losses import mid_level

    return mid_level
