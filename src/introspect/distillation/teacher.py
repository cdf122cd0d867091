"""Where the teacher comes from: a checkpoint, published weights, or one training whose result is kept."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from introspect.core.errors import InputError
from introspect.distillation.cache import save_weights, settings_text, weights_file
from introspect.distillation.checkpoints import check_teacher
from introspect.distillation.training import Training
from introspect.vision.backbones import Backbone
from introspect.vision.networks import load_weights


@dataclass(frozen=True)
class Teacher:
    """A classifier to learn from.

    Attributes:
        backbone: which network it is.
        cache_dir: folder of teachers that were trained here.
        ckpt_path: file of its weights: a checkpoint of train.py, or a state dict; None takes the backbone's published
            weights if it names any, and otherwise a teacher that is trained once.
        training: how it is trained then.
        cache: whether its logits of all training images are computed once and kept in `cache_dir`.
    """

    backbone: Backbone
    cache_dir: str | Path
    ckpt_path: str | Path | None = None
    training: Training = field(default_factory=Training)
    cache: bool = False

    @property
    def is_trained_here(self) -> bool:
        """Whether neither a file nor published weights are given."""
        return self.ckpt_path is None and self.backbone.weights is None

    def file(self, identity: str) -> Path:
        """Return the file of a teacher that is trained here.

        Args:
            identity: of the data that it is trained on, see `ImageDataModule.identity`.
        """
        return weights_file(self.cache_dir, self.backbone.name, self._settings(identity))

    def _settings(self, identity: str) -> str:
        return settings_text({"backbone": asdict(self.backbone), "training": asdict(self.training), "data": identity})

    def save(self, network: nn.Module, identity: str) -> Path:
        """Write the weights of a trained teacher to its file, whole or not at all.

        Raises:
            InputError: a weight is not finite.
        """
        return save_weights(network, self.file(identity), self._settings(identity))

    def origin(self, identity: str) -> str:
        """Return a text that identifies its weights, for names of files made with them; `identity` as in `load`."""
        if self.is_trained_here:
            return self.file(identity).name
        if self.ckpt_path is not None and Path(self.ckpt_path).is_file():
            with Path(self.ckpt_path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return str(self.ckpt_path or self.backbone.weights)

    def load(self, identity: str, normalization: Any = None) -> nn.Module:
        """Return the network in evaluation mode, without gradients.

        Args:
            identity: of the data that it was trained on, if it was trained here.
            normalization: of the pixels that it will see; None skips the comparison with that of a checkpoint.

        Raises:
            InputError: its weights are not there, are not those of the backbone, or were trained on pixels that were
                prepared differently.
        """
        network = self.backbone.build()
        if self.ckpt_path is not None:
            check_teacher(self.ckpt_path, self.backbone, normalization)
            load_weights(network, self.ckpt_path)
        elif self.is_trained_here:
            path = self.file(identity)
            if not path.is_file():
                raise InputError(f"{path}: the teacher has not been trained yet: python train.py experiment=teacher")
            load_weights(network, path)
        return network.eval().requires_grad_(False)
