"""Which classes are similar to a student in the test, and whether they are to its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from introspect.core.files import write_json
from introspect.core.inference import float64_device
from introspect.distillation.module import Distillation
from introspect.distillation.similarity import ClassSimilarity as Similarity
from introspect.vision.datasets.base import ImageSet


class ClassSimilarity(Callback):
    """Logs `test/class_entropy`, and with a teacher `test/logit_cka` and `test/similarity_rank_correlation`.

    The matrices of similarities go to `class_similarity.json`: `[i][j]` is that of class j to class i. Definitions and
    units: `distillation.similarity.ClassSimilarity`. A student that is only tested has no teacher beside it.

    Args:
        images: whose classes have groups, in its `groups`; where it has none, there is no entropy.
        folder: where the file goes.
    """

    def __init__(self, *, images: ImageSet, folder: str | Path) -> None:
        self.groups = list(images.groups)
        self.classes, self.folder = images.classes, Path(folder)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start new sums."""
        place = float64_device(pl_module.device)
        self.found = Similarity(self.groups, self.classes).to(place)
        self.taught = Similarity(self.groups, self.classes).to(place)

    @torch.no_grad()
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *others: Any
    ) -> None:
        """Add the logits of student and teacher of a batch."""
        place, taught = self.found.device, cast(Distillation, pl_module).teacher_logits(batch[0])
        logits, targets = cast(Tensor, outputs).to(place), batch[1].to(place)
        self.found.update(logits, None if taught is None else taught.to(place), targets)
        if taught is not None:
            self.taught.update(taught.to(place), None, targets)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log and write."""
        values = self.found.compute()
        names = {"entropy": "class_entropy", "cka": "logit_cka", "rank_correlation": "similarity_rank_correlation"}
        metrics = {f"test/{names[name]}": value for name, value in values.items()}
        if "cka" in values and "entropy" in values:
            metrics["test/teacher_class_entropy"] = self.taught.compute()["entropy"]
        pl_module.log_dict({name: torch.tensor(value) for name, value in metrics.items()})
        with self.found.sync_context():  # the sums of all devices
            student, teacher = self.found.matrices().tolist()
        if trainer.is_global_zero:
            matrices = {"student": student, **({"teacher": teacher} if "cka" in values else {})}
            write_json(self.folder / "class_similarity.json", {"groups": self.groups, **matrices}, indent=None)
