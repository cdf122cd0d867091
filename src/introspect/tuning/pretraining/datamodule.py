"""The pretraining texts of the embedded base student in batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import DataLoader, Dataset

from introspect.benchmarks.base import Benchmark
from introspect.chat.templates import load_tokenizer
from introspect.core.errors import InputError
from introspect.core.resuming import EpochLoader, Place, place
from introspect.tuning.packing import Batch, pad_batch
from introspect.tuning.pretraining.texts import Curriculum, FailureModes, PretrainingTexts
from introspect.tuning.pretraining.tokenizer import build_tokenizer
from introspect.tuning.questions import QuestionsDataModule


class PretrainingDataModule(QuestionsDataModule):
    """Serves the curriculum in its order, once: `size` texts in batches of `batch_size`.

    Args:
        tokenizer: folder where the student's tokenizer is made.
        size: texts in all.
        batch_size: texts per step.
        seed: decides every text.
        failure_modes: probabilities of `FailureModes`, as a mapping.
        curriculum: fields of `Curriculum`, as a mapping.
        benchmark: where the questions of the test come from.
        num_workers: processes that write texts during the training; 0 writes them in the training process.
    """

    def __init__(
        self,
        *,
        tokenizer: str | Path,
        size: int,
        batch_size: int,
        benchmark: Benchmark,
        seed: int = 0,
        failure_modes: Mapping[str, float] | None = None,
        curriculum: Mapping[str, Any] | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(benchmark)
        self.tokenizer_folder = Path(tokenizer)
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.failure_modes = FailureModes(**(failure_modes or {}))
        self.curriculum = Curriculum(**(curriculum or {}))
        self.num_workers = num_workers

    def prepare_data(self) -> None:
        """Make the tokenizer's folder."""
        build_tokenizer().save_pretrained(self.tokenizer_folder)

    def train_dataloader(self) -> PoolLoader:
        """Return the batches in the curriculum's order; a resumed run goes on where it stopped.

        Raises:
            InputError: there are several devices, which would all read the same.
        """
        if self.trainer is not None and self.trainer.world_size > 1:
            raise InputError("trainer.devices: the base student is pretrained on one device: give trainer.devices=1")
        tokenizer = load_tokenizer(self.tokenizer_folder)
        texts = PretrainingTexts(tokenizer, self.size, self.seed, self.curriculum, self.failure_modes)
        trainer = self.trainer
        pools = Pools(texts, self.batch_size, tokenizer.pad_token_id)
        return PoolLoader(pools, self.num_workers, lambda: place(trainer) if trainer else Place(0, 0))


@dataclass(frozen=True)
class Pools(Dataset[list[Batch]]):
    """Pools of `POOL` batches that follow each other; within a pool, texts of similar length share a batch.

    Attributes:
        texts: the texts.
        batch_size: texts of a batch.
        pad_id: the token that fills short texts up.
    """

    POOL: ClassVar[int] = 16

    texts: PretrainingTexts
    batch_size: int
    pad_id: int

    def __len__(self) -> int:
        return -(-len(self.texts) // (self.batch_size * self.POOL))

    def __getitem__(self, number: int) -> list[Batch]:
        size = self.batch_size * self.POOL
        start = number * size
        texts = [self.texts[index] for index in range(start, min(start + size, len(self.texts)))]
        texts.sort(key=lambda text: len(text[0]))
        batches = [texts[at : at + self.batch_size] for at in range(0, len(texts), self.batch_size)]
        random.Random(f"pools/{self.texts.seed}/{start}").shuffle(batches)
        return [pad_batch(batch, self.pad_id) for batch in batches]


class PoolLoader(EpochLoader):
    """The batches of `Pools`.

    Args:
        pools: where they come from.
        num_workers: processes that prepare pools.
        place: see `EpochLoader`.
    """

    def __init__(self, pools: Pools, num_workers: int, place: Callable[[], Place]) -> None:
        super().__init__(place)
        self.pools, self.num_workers = pools, num_workers

    def __len__(self) -> int:
        """Batches of all texts."""
        return -(-len(self.pools.texts) // self.pools.batch_size)

    def batches(self, place: Place) -> Iterator[Batch]:
        """See `EpochLoader.batches`."""
        first, done = divmod(place.trained, self.pools.POOL)
        order = range(first, len(self.pools))
        for pool in DataLoader(self.pools, batch_size=None, sampler=order, num_workers=self.num_workers):
            yield from pool[done:]
            done = 0
