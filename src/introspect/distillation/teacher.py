"""Where the teacher comes from: a checkpoint, published weights, or one training that is kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from introspect.distillation.backbones import Backbone
from introspect.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Training:
    """How a teacher is trained where there is none: as `Distillation` with cross-entropy.

    epochs: passes over the training images. lr, momentum, weight_decay, milestones: see `Distillation`. seed: of its
    weights and of the order of training, whatever the seed of its students is, so that all of them have one teacher.
    """

    epochs: int = 30
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[float, ...] = (0.3, 0.6, 0.9)
    seed: int = 0


@dataclass(frozen=True)
class Teacher:
    """A classifier to learn from.

    backbone: which network it is.
    cache_dir: folder of teachers that were trained here.
    ckpt_path: file of its weights: a checkpoint of train.py, or a state dict; None takes the backbone's published
        weights if it names any, and else a teacher that is trained once.
    training: how.
    """

    backbone: Backbone
    cache_dir: str | Path
    ckpt_path: str | Path | None = None
    training: Training = Training()

    @property
    def is_trained_here(self) -> bool:
        """Whether nobody has given its weights."""
        return self.ckpt_path is None and self.backbone.weights is None

    def file(self, identity: str) -> Path:
        """The file of a teacher that was trained here on the data of that identity; it changes with every setting."""
        settings = {"backbone": asdict(self.backbone), "training": asdict(self.training), "data": identity}
        digest = hashlib.sha256(json.dumps(plain_settings(settings), sort_keys=True).encode()).hexdigest()[:12]
        return Path(self.cache_dir) / f"{self.backbone.name}-{digest}.safetensors"

    def keep(self, network: nn.Module, identity: str) -> Path:
        """Write the weights of a trained teacher to its file; whole or not at all."""
        from safetensors.torch import save_file

        path = self.file(identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        save_file(weights, partial)
        partial.replace(path)
        return path

    def load(self, identity: str) -> nn.Module:
        """The teacher, in evaluation mode, without gradients.

        Raises:
            InputError: its weights are not there, or not those of the backbone.
        """
        network = self.backbone.build()
        if self.ckpt_path is not None:
            load_weights(network, self.ckpt_path)
        elif self.is_trained_here:
            path = self.file(identity)
            if not path.is_file():
                raise InputError(f"{path}: the teacher has not been trained yet: python train.py experiment=teacher")
            load_weights(network, path)
        return network.eval().requires_grad_(False)


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Fill a network with the weights of a file (.safetensors, or one of torch); nothing in it is executed.

    Raises:
        InputError: there is no such file, it holds no weights, or they are not those of the network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from introspect.dissection.networks import load_weights as load_torch

    path = Path(path)
    if path.suffix != ".safetensors":
        load_torch(network, path)
        return
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: not the weights of the network: {' '.join(str(error).split())[:200]}") from error


def plain_settings(value: Any) -> Any:
    """Mappings and sequences of any library as dict and list."""
    if isinstance(value, Mapping):
        return {str(key): plain_settings(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_settings(item) for item in value]
    return value
