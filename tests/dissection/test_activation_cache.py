"""Temporary files: what a full disk does, before and while it is full."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from introspect.core.errors import InputError
from introspect.dissection.activation_cache import ActivationCache
from introspect.dissection.engine import dissect
from introspect.dissection.tally import Annotation
from tests.dissection.test_engine import Known, raw, world


def annotation(value: int) -> Annotation:
    return Annotation.of(torch.full((1, 4, 4), value), (value,))


def test_what_was_added_is_read_in_any_order(tmp_path: Path) -> None:
    maps = torch.arange(48.0).view(4, 3, 2, 2)
    with ActivationCache(tmp_path / "made") as cache:
        for number, part in enumerate(maps.split(2)):
            cache.add_maps("layer", part)
            cache.add_annotation(annotation(number))
        assert torch.equal(cache.maps("layer", 1, 3), maps[1:3])
        assert cache.annotation(1).scalars.tolist() == [1]
        cache.add_maps("layer", maps[:1])
        assert torch.equal(cache.maps("layer", 4, 5), maps[:1])
    assert list((tmp_path / "made").iterdir()) == []


def test_a_disk_that_will_be_too_small_is_named_after_the_first_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Any = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    options = {"quantile": 0.5, "preprocessing": raw, "batch_size": 2, "progress": False, "cache_dir": tmp_path}
    dissect(Known(), ["units"], world(4), **options)  # 4 units of 1 kB, and a mask of 256 bytes and more, per image
    with pytest.raises(
        InputError, match=r"cache_dir=.*: the temporary files need 0.0 GB more, and the disk has 0.0 GB"
    ):
        dissect(Known(), ["units"], world(6), **options)


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Path("/dev/full").open("r+b", buffering=0))  # noqa: SIM115
    full = r"cache_dir=.*: the temporary files cannot be written: No space left on device"
    with ActivationCache() as cache:
        with pytest.raises(InputError, match=full):
            cache.add_maps("layer", torch.zeros(1, 2, 2, 2))
        with pytest.raises(InputError, match=full):
            cache.add_annotation(annotation(1))


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cache_dir=.*file: the temporary files cannot be written: File exists"):
        ActivationCache(tmp_path / "file")
