"""Settings as plain data, as JSON and checkpoints hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plain_settings(value: Any) -> Any:
    """Mappings and sequences of any library as dict and list, with text for keys; paths as text; all else as it is."""
    if isinstance(value, Mapping):
        return {str(key): plain_settings(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain_settings(item) for item in value]
    return str(value) if isinstance(value, Path) else value
