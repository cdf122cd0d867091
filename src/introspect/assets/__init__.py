"""Models that come with the package. A config names one as `${asset:hopworld_base}`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from introspect.core.errors import InputError


def asset(name: str) -> str:
    """Return the folder of an embedded model.

    Raises:
        InputError: there is none of that name.
    """
    root = Path(__file__).parent
    folder = root / name
    if not folder.is_dir():
        embedded = sorted(path.name for path in root.iterdir() if (path / "config.json").is_file())
        raise InputError(f"there is no embedded model {name!r}: expected one of {', '.join(embedded) or 'none'}")
    return str(folder)


OmegaConf.register_new_resolver("asset", asset, replace=True)
