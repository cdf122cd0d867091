"""What data modules of reasoning students have in common."""

from __future__ import annotations

from collections.abc import Sequence
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
    """A test of questions, not of tensors.

    Args:
        benchmark: where the questions come from.
        test_examples: how many test questions the student answers; None takes all.
    """

    def __init__(self, benchmark: Benchmark, test_examples: int | None = None) -> None:
        super().__init__()
        self.benchmark = benchmark
        self.test_examples = test_examples

    def test_dataloader(self) -> SharedLoader:
        """The test questions, all in one batch (on several devices: this one's share): who answers makes batches.

        A share is empty where there are fewer questions than devices: all must come to where answers are gathered.

        Raises:
            InputError: there are no test questions.
        """
        examples = self.benchmark.load("test", self.test_examples)
        if not examples:
            raise InputError(f"{self.benchmark.name}: there are no test questions")
        own = share(range(len(examples)), *processes(self.trainer))
        return SharedLoader(partial(DataLoader, examples, collate_fn=list), [[*own]])  # type: ignore[arg-type]

    def examples(self, split: str) -> Sequence[MultiHopExample]:
        """The questions of a split, the test's limited as set.

        Raises:
            InputError: the benchmark cannot be read.
        """
        return self.benchmark.load(split, self.test_examples if split == "test" else None)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Questions, unlike tensors, stay where they are."""
        return batch if isinstance(batch, list) else super().transfer_batch_to_device(batch, device, dataloader_idx)
