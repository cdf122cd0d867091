"""Files that are made once for all students: teachers, first stages, a teacher's logits.

Each name holds a digest of the settings that decide the content, so that other settings have another file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from introspect.core.errors import InputError
from introspect.core.files import replacing
from introspect.core.nested import to_plain


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings as JSON, the same for equal settings from a config and from code."""
    return json.dumps(to_plain(settings), sort_keys=True)


def weights_file(folder: str | Path, name: str, settings: str) -> Path:
    """Return the file of weights that were trained with these settings (a text of `settings_text`)."""
    return Path(folder) / f"{name}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}.safetensors"


def make_once(path: Path, make: Callable[[], object]) -> Path:
    """Call `make`, which writes the file, if there is no such file; of several processes one does, the others wait."""
    from filelock import FileLock

    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                make()
    return path


def save_weights(network: nn.Module, path: Path, settings: str) -> Path:
    """Write the weights of a network to a safetensors file, whole or not at all, with the settings in its header.

    Raises:
        InputError: a weight is not finite.
    """
    from safetensors.torch import save_file

    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise InputError(f"{path.stem}: the training diverged ({broken[0]} is not finite): lower its lr")
    with replacing(path) as partial:
        save_file(weights, partial, metadata={"settings": settings})
    return path
