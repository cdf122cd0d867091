"""The config as a tree, for the terminal and for config_tree.log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.tree import Tree


def config_tree(values: Mapping[str, Any]) -> Tree:
    """A tree with a branch per config group and its settings as YAML; settings of no group stand last."""
    import yaml
    from rich.syntax import Syntax
    from rich.tree import Tree

    tree = Tree("config", guide_style="dim")
    plain = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    for name, value in values.items():
        if isinstance(value, Mapping):
            text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True).rstrip()
            tree.add(name).add(Syntax(text, "yaml", background_color="default", word_wrap=True))
    for name, value in plain.items():
        tree.add(f"{name}: {value}")
    return tree
