"""What data modules of reasoning students have in common."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from introspect.benchmarks.base import Benchmark
from introspect.benchmarks.examples import MultiHopExample
from introspect.core.distributed import SharedLoader, processes, share
from introspect.core.errors import InputError


class QuestionsDataModule(LightningDataModule):
    """Serves the questions of a benchmark, the test ones in a loader; what a training reads is for heirs to add.

    Args:
        benchmark: where the questions come from.
        train_examples: how many training questions are used; None uses all.
        validation_examples: how many validation questions are used; None uses all.
        test_examples: how many test questions the student answers; None takes all.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        *,
        train_examples: int | None = None,
        validation_examples: int | None = None,
        test_examples: int | None = None,
    ) -> None:
        super().__init__()
        self.benchmark = benchmark
        self.limits = {"train": train_examples, "validation": validation_examples, "test": test_examples}
        self._examples: dict[str, list[MultiHopExample]] = {}

    def test_dataloader(self) -> SharedLoader:
        """Return all test questions in one batch (on several devices: this one's share), which the student divides.

        A share is empty where there are fewer questions than devices: every process takes part in gathering answers.

        Raises:
            InputError: there are no test questions.
        """
        examples = self.examples("test")
        if not examples:
            raise InputError(f"{self.benchmark.name}: there are no test questions")
        own = share(range(len(examples)), *processes(self.trainer))
        return SharedLoader(partial(DataLoader, examples, collate_fn=list), [[*own]])  # type: ignore[arg-type]

    def examples(self, split: str) -> list[MultiHopExample]:
        """Return the questions of a split, as many as its limit allows; they are read once.

        Raises:
            InputError: the benchmark cannot be read.
        """
        if split not in self._examples:
            self._examples[split] = self.benchmark.load(split, self.limits.get(split))
        return self._examples[split]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Questions, unlike tensors, stay where they are."""
        return batch if isinstance(batch, list) else super().transfer_batch_to_device(batch, device, dataloader_idx)
