"""Where the teacher comes from: a checkpoint, published weights, or one training that is kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from introspect.core.errors import InputError, one_line
from introspect.core.files import replacing
from introspect.core.nested import to_plain
from introspect.core.resuming import read_checkpoint
from introspect.vision.backbones import Backbone

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Training:
    """How a teacher, or a stage on top of it, is trained where there is none: with SGD, as a `Distillation` is.

    epochs: passes over the training images. lr, momentum, weight_decay, milestones: see `Distillation`. seed: of its
    weights and of the order of training, whatever the seed of its students is, so that all of them have one teacher.
    label_smoothing: of a teacher's labels, see `LabelSmoothing`; 0 trains it with cross-entropy.
    """

    epochs: int = 30
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[float, ...] = (0.3, 0.6, 0.9)
    seed: int = 0
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Teacher:
    """A classifier to learn from.

    backbone: which network it is.
    cache_dir: folder of teachers that were trained here.
    ckpt_path: file of its weights: a checkpoint of train.py, or a state dict; None takes the backbone's published
        weights if it names any, and else a teacher that is trained once.
    training: how.
    cache: whether it is asked about each training image once, and its logits are kept in `cache_dir`.
    """

    backbone: Backbone
    cache_dir: str | Path
    ckpt_path: str | Path | None = None
    training: Training = Training()
    cache: bool = False

    @property
    def is_trained_here(self) -> bool:
        """Whether nobody has given its weights."""
        return self.ckpt_path is None and self.backbone.weights is None

    def file(self, identity: str) -> Path:
        """The file of a teacher that was trained here on the data of that identity; it changes with every setting."""
        digest = hashlib.sha256(self._settings(identity).encode()).hexdigest()[:12]
        return Path(self.cache_dir) / f"{self.backbone.name}-{digest}.safetensors"

    def _settings(self, identity: str) -> str:
        settings = {"backbone": asdict(self.backbone), "training": asdict(self.training), "data": identity}
        return json.dumps(to_plain(settings), sort_keys=True)

    def keep(self, network: nn.Module, identity: str) -> Path:
        """Write the weights of a trained teacher to its file, whole or not at all; its settings stand in the header.

        Raises:
            InputError: a weight is not finite.
        """
        return keep_weights(network, self.file(identity), self._settings(identity))

    def origin(self, identity: str) -> str:
        """What its weights are, as text, for what is made with them; `identity` as in `load`."""
        if self.is_trained_here:
            return self.file(identity).name
        if self.ckpt_path is not None and Path(self.ckpt_path).is_file():
            with Path(self.ckpt_path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return str(self.ckpt_path or self.backbone.weights)

    def load(self, identity: str, normalization: Any = None) -> nn.Module:
        """The teacher, in evaluation mode, without gradients.

        Args:
            identity: of what it was trained on, where that was here.
            normalization: of the pixels that it will see; None is not compared with that of a checkpoint.

        Raises:
            InputError: its weights are not there, or not those of the backbone, or of pixels prepared otherwise.
        """
        network = self.backbone.build()
        if self.ckpt_path is not None:
            check_settings(self.ckpt_path, self.backbone, normalization)
            load_weights(network, self.ckpt_path)
        elif self.is_trained_here:
            path = self.file(identity)
            if not path.is_file():
                raise InputError(f"{path}: the teacher has not been trained yet: python train.py experiment=teacher")
            load_weights(network, path)
        return network.eval().requires_grad_(False)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold off other processes of this file system that are about to make the same file."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        yield


def keep_weights(network: nn.Module, path: Path, settings: str) -> Path:
    """Write the weights of a network to a file, whole or not at all; the settings stand in its header.

    Raises:
        InputError: a weight is not finite.
    """
    from safetensors.torch import save_file

    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise InputError(f"{path.stem}: the training diverged ({broken[0]} is not finite): give it a smaller lr")
    with replacing(path) as partial:
        save_file(weights, partial, metadata={"settings": settings})
    return path


def check_settings(path: str | Path, backbone: Backbone, normalization: Any) -> None:
    """Compare what a checkpoint of train.py says of its network with what is about to be built.

    Weights alone do not tell a stride, nor how the pixels were prepared: the wrong network would run all the same.

    Raises:
        InputError: naming what differs.
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


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Fill a network with the weights of a file (.safetensors, or one of torch); nothing in it is executed.

    Raises:
        InputError: there is no such file, it holds no weights, or they are not those of the network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from introspect.vision.networks import load_weights as load_torch

    path = Path(path)
    if path.suffix != ".safetensors":
        load_torch(network, path)
        return
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: not the weights of the network: {one_line(error, 200)}") from error
