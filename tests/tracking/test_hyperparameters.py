"""What is logged about a run: resolved, plain, and without what came from the environment."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from introspect import __version__
from introspect.tracking.hyperparameters import code, plain


def test_resolved_nested_and_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    values = plain(OmegaConf.create({"a": {"b": [1, "${c}"]}, "c": 2.5, "d": None}))
    assert values == {"a": {"b": [1, 2.5]}, "c": 2.5, "d": None}
    assert type(values["a"]) is dict
    assert type(values["a"]["b"]) is list


def test_what_the_environment_gave_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_PASS", "correct horse")
    cfg = {"url": "https://host?auth=${oc.env:SERVER_PASS}", "again": "${url}", "root": "${oc.env:NOT_SET_ANYWHERE,.}"}
    assert plain(OmegaConf.create(cfg)) == {
        "url": "https://host?auth=${oc.env:SERVER_PASS}",
        "again": "https://host?auth=${oc.env:SERVER_PASS}",
        "root": ".",
    }


def test_secrets_are_redacted() -> None:
    assert plain(OmegaConf.create({"teacher": {"api_key": "abc"}})) == {"teacher": {"api_key": "***"}}


def test_what_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    found = code()
    assert found["introspect"] == __version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    monkeypatch.setenv("PATH", "")
    alone = code()
    assert (alone["commit"], alone["changed"]) == (None, None)
