from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from introspect.core.nested import flatten, to_plain


def test_what_any_library_calls_a_mapping_or_a_sequence() -> None:
    config = OmegaConf.create({"a": {"b": [1, {"c": None}]}, "d": "${a.b}"})
    plain = to_plain({"config": config, 3: (1.5, "text", b"bytes"), "file": Path("x") / "y"})
    inner = [1, {"c": None}]
    assert plain == {"config": {"a": {"b": inner}, "d": inner}, "3": [1.5, "text", b"bytes"], "file": str(Path("x/y"))}
    assert {type(plain["config"]), type(plain["config"]["a"]["b"][1])} == {dict}
    assert {type(plain["config"]["a"]["b"]), type(plain["3"])} == {list}
    assert type(plain["file"]) is str


def test_nested_names_become_one() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [1]}, "e": {}}) == {"a/b/c": 1, "a/d": [1], "e": {}}
