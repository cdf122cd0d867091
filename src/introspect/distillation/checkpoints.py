"""Read the checkpoints of a `Distillation`: the student in them, and the settings that it was trained with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from introspect.core.errors import InputError, one_line
from introspect.core.nested import to_plain
from introspect.core.resuming import read_checkpoint
from introspect.vision.backbones import Backbone
from introspect.vision.networks import Network
from introspect.vision.preprocessing import preprocessing

_STUDENT = "student."  # before the names of its weights


def load_classifier(ckpt_path: str | Path) -> Network:
    """Return the student of a checkpoint.

    Raises:
        InputError: there is no such file, or it is not a checkpoint of a `Distillation`.
    """
    checkpoint = read_checkpoint(ckpt_path)
    weights = checkpoint["state_dict"]
    try:
        settings = checkpoint["hyper_parameters"]
        network = Backbone(**{**settings["student"], "weights": None}).build()
        network.load_state_dict(
            {name.removeprefix(_STUDENT): weights[name] for name in weights if name.startswith(_STUDENT)}
        )
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"ckpt_path={ckpt_path}: not a checkpoint of a classifier ({one_line(error, 200)})") from error
    return Network(
        network.eval(), settings["student"]["name"], str(ckpt_path), preprocessing(settings["normalization"])
    )


def check_teacher(path: str | Path, backbone: Backbone, normalization: Any) -> None:
    """Compare the settings in a checkpoint of train.py with the network that is about to be built.

    Weights alone tell neither a stride nor how the pixels were prepared: the wrong network would run without an error.

    Raises:
        InputError: naming the settings that differ.
    """
    if Path(path).suffix != ".ckpt" or not Path(path).is_file():
        return
    found = read_checkpoint(path).get("hyper_parameters", {})
    own, given = found.get("student", {}), asdict(backbone)
    compared = sorted(given.keys() & own.keys() - {"weights"})
    wrong = [f"{name}={given[name]} where it has {own[name]}" for name in compared if given[name] != own[name]]
    if normalization is not None and found.get("normalization", normalization) != to_plain(normalization):
        wrong.append(f"normalization={to_plain(normalization)} where it has {found['normalization']}")
    if wrong:
        raise InputError(f"model.teacher.ckpt_path={path}: the teacher is built with {'; '.join(wrong)}")
