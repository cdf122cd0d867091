"""The config as it is logged and shown: resolved, plain, and without values of the environment."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from introspect import __version__
from introspect.tracking.config import code_version, config_tree, resolved_config


def test_the_config_is_resolved_into_plain_values() -> None:
    values = resolved_config(OmegaConf.create({"a": {"b": [1, "${c}"]}, "c": 2.5, "d": None}))
    assert values == {"a": {"b": [1, 2.5]}, "c": 2.5, "d": None}
    assert type(values["a"]) is dict
    assert type(values["a"]["b"]) is list


def test_values_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_PASS", "correct horse")
    cfg = {"url": "https://host?auth=${oc.env:SERVER_PASS}", "again": "${url}", "root": "${oc.env:NOT_SET_ANYWHERE,.}"}
    assert resolved_config(OmegaConf.create(cfg)) == {
        "url": "https://host?auth=${oc.env:SERVER_PASS}",
        "again": "https://host?auth=${oc.env:SERVER_PASS}",
        "root": ".",
    }


def test_secrets_are_redacted() -> None:
    assert resolved_config(OmegaConf.create({"teacher": {"api_key": "abc"}})) == {"teacher": {"api_key": "***"}}


def test_the_tree_has_a_branch_per_group_and_other_settings_last() -> None:
    tree = config_tree({"seed": 1, "model": {"lr": 0.1, "name": "ä"}, "tags": ["a"]})
    assert [branch.label for branch in tree.children] == ["model", "seed: 1", "tags: ['a']"]
    assert tree.children[0].children[0].label.code == "lr: 0.1\nname: ä"


def test_the_version_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    found = code_version()
    assert found["introspect"] == __version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    monkeypatch.setenv("PATH", "")
    alone = code_version()
    assert (alone["commit"], alone["changed"]) == (None, None)
