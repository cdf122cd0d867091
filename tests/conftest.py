"""Fixtures and switches that every test shares.

The tests leave nothing behind: no Hydra state, no open W&B run, no changed environment, and they reach no network.
A test whose need is absent (a GPU, a model hub, a browser, the reference data) is skipped with the reason.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
HUB = bool(os.environ.get("INTROSPECT_HUB"))

# Set before any test module is imported: these libraries read their environment once, when they are imported.
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it: each process has one core
if not HUB:
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_OFFLINE"] = "1"

# A busy machine makes an example slow, not wrong.
settings.register_profile("introspect", deadline=None)
settings.load_profile("introspect")


def _missing_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "needs a CUDA GPU"


def _missing_hub() -> str | None:
    return None if HUB else "needs a model hub: set INTROSPECT_HUB=1 to allow downloads"


def _missing_browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return None if any(map(shutil.which, names)) else f"needs a browser: none of {', '.join(names)} is on PATH"


NEEDS = {"gpu": _missing_gpu, "hub": _missing_hub, "browser": _missing_browser}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests whose marked need this machine cannot meet; each need is looked up once, only if it is used."""
    for marker, missing in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and (reason := missing()):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data (real benchmark items, golden values) that is not part of the repository."""
    path = Path(os.environ.get("INTROSPECT_SHARED") or ROOT.parent / "shared").expanduser().resolve()
    if not path.is_dir():
        pytest.skip(f"no reference data at {path}: put it beside the repository or set INTROSPECT_SHARED")
    return path


@pytest.fixture(autouse=True)
def hygiene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test its own W&B folder, and undo the global state that it may leave behind."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)
    # Through sys.modules: what no test has imported cannot have left anything behind, and importing is slow.
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    if "hydra" in sys.modules:
        importlib.import_module("hydra.core.global_hydra").GlobalHydra.instance().clear()
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
