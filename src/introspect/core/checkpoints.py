"""Telling a Lightning checkpoint from other files, before anything is built for it."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

from introspect.core.errors import InputError, first_line


def check_checkpoint(path: str | Path) -> None:
    """Refuse what is no checkpoint of a training; executes nothing that is in the file.

    Raises:
        InputError: there is no such file, it is no checkpoint, or it holds more than plain data and tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"ckpt_path={path} is a folder: a training goes on from a .ckpt file, e.g. checkpoints/last.ckpt"
        )
    if not path.is_file():
        raise InputError(f"ckpt_path={path}: no such file")
    if not zipfile.is_zipfile(path):
        raise InputError(f"ckpt_path={path} is not a Lightning checkpoint")
    import torch

    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError) as error:
        reason = first_line(error)
        raise InputError(f"ckpt_path={path} is not a checkpoint that can be loaded safely: {reason}") from error
    if not isinstance(content, dict) or not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise InputError(f"ckpt_path={path} is not a Lightning checkpoint: it lacks state_dict or its version")
