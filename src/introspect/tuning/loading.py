"""The order of training: batches of similar length, and a loader that resumes where it stopped.

Legend: n sequences in the data set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from introspect.core.resuming import EpochLoader, Place
from introspect.core.seeds import derived_seed
from introspect.tuning.packing import Batch, Group
from introspect.tuning.supervision import Supervised

# Sequences are sorted by length among this many batches drawn at random: little padding, and still another mixture in
# every epoch.
_POOL = 32


class SupervisedDataset(Dataset[Supervised]):
    """Supervised sequences, four bytes a token; shared, not copied, with forked loader workers."""

    def __init__(self, items: Iterable[Supervised]) -> None:
        sequences: list[Tensor] = []
        prompts: list[int] = []
        for item in items:
            sequences.append(torch.tensor(item.input_ids, dtype=torch.int32))
            prompts.append(item.prompt_length)
        self.lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
        self.prompts = torch.tensor(prompts, dtype=torch.int64)
        self._tokens = torch.cat(sequences) if sequences else torch.empty(0, dtype=torch.int32)
        self._ends = self.lengths.cumsum(0)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Supervised:
        end = int(self._ends[index])
        tokens = self._tokens[end - int(self.lengths[index]) : end]
        return Supervised(tuple(tokens.tolist()), int(self.prompts[index]))

    def prompt_digest(self, index: int) -> bytes:
        """A hash of the tokens of a sequence's prompt: equal for equal prompts."""
        begin = int(self._ends[index]) - int(self.lengths[index])
        prompt = self._tokens[begin : begin + int(self.prompts[index])]
        return hashlib.blake2b(prompt.numpy().tobytes(), digest_size=16).digest()

    @property
    def fingerprint(self) -> str:
        """A hash of every token and every mask: equal for equal data in equal order."""
        digest = hashlib.blake2b(digest_size=16)
        for tensor in (self.lengths, self.prompts, self._tokens):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


class GroupedDataset(Dataset[Group]):
    """Supervised sequences as groups: those of one prompt together, or each by itself.

    Args:
        sequences: the sequences.
        by_prompt: whether those with the same prompt tokens make one group; groups come in the order of their first
            sequence.
    """

    def __init__(self, sequences: SupervisedDataset, *, by_prompt: bool) -> None:
        self.sequences = sequences
        members: dict[object, list[int]] = {}
        for index in range(len(sequences)):
            members.setdefault(sequences.prompt_digest(index) if by_prompt else index, []).append(index)
        self.members = list(members.values())
        sizes = torch.tensor([len(group) for group in self.members])
        order = torch.tensor([index for group in self.members for index in group], dtype=torch.int64)
        prompts = sequences.prompts[[group[0] for group in self.members]]
        completions = (sequences.lengths - sequences.prompts)[order]
        owner = torch.arange(len(sizes)).repeat_interleave(sizes)
        self.supervised = torch.zeros(len(sizes), dtype=torch.int64).index_add_(0, owner, completions)
        self.lengths = prompts + self.supervised

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Group:
        return tuple(self.sequences[member] for member in self.members[index])


class LengthBucketSampler:
    """Batches of indices of like length, in an order that depends on nothing but (seed, epoch).

    The sequences of an epoch are shuffled, sorted by length within pools of some batches, cut into steps and the steps
    shuffled again. Processes that train together share a step and take turns within it, so that their batches are
    alike in length. Every sequence comes once an epoch, whatever the number of processes: where a step has fewer
    sequences than processes, some have an empty batch in it.

    Args:
        lengths: tokens of each sequence, [n].
        step: sequences of a step, of all processes together.
        seed: decides every order together with the epoch.
        replicas: how many processes train together.
        rank: which of them this is, from 0.
        shuffle: without it, the sequences come in their own order, every epoch alike.
    """

    def __init__(
        self,
        lengths: Tensor,
        step: int,
        *,
        seed: int = 0,
        replicas: int = 1,
        rank: int = 0,
        shuffle: bool = True,
    ) -> None:
        self.lengths = lengths
        self.step = step
        self.seed = seed
        self.replicas = replicas
        self.rank = rank
        self.shuffle = shuffle
        self.epoch = 0

    def __len__(self) -> int:
        """Steps per epoch, the same on every process."""
        return -(-len(self.lengths) // self.step)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next `batches`; the trainer calls it at the start of an epoch."""
        self.epoch = epoch

    def batches(self) -> list[list[int]]:
        """The batches of this process in the epoch's order; only the shortest step may be incomplete."""
        return [step[self.rank :: self.replicas] for step in self.steps()]

    def steps(self) -> list[list[int]]:
        """The batches of all processes together."""
        count = len(self.lengths)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.epoch))
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        if self.shuffle:
            pools = order.split(self.step * _POOL)
            order = torch.cat([pool[self.lengths[pool].argsort(stable=True)] for pool in pools])
        steps = order.split(self.step)
        turn = torch.randperm(len(steps), generator=generator) if self.shuffle else torch.arange(len(steps))
        return [steps[number].tolist() for number in turn.tolist()]


class ResumableLoader(EpochLoader):
    """Batches of an epoch, from the place that training has reached.

    Each has a `share`, by which the sum of its tokens' losses is multiplied, so that the loss of an optimizer step is
    the mean over its supervised tokens, whatever the micro-batches and processes they came in.

    Args:
        dataset: what the sampler's indices point into.
        sampler: decides the batches of an epoch.
        collate: makes a batch of what they point to.
        num_workers: processes that prepare batches; 0 prepares them in this one.
        pin_memory: whether batches are put where a GPU fetches them faster.
        place: see `EpochLoader`; by default, the beginning of the epoch that the sampler was set to, with a step for
            each batch.
    """

    def __init__(
        self,
        dataset: GroupedDataset,
        sampler: LengthBucketSampler,
        *,
        collate: Callable[[list[Group]], Batch],
        num_workers: int = 0,
        pin_memory: bool = False,
        place: Callable[[], Place] | None = None,
    ) -> None:
        super().__init__(place or (lambda: Place(sampler.epoch, 0)))
        self._groups = dataset
        self.sampler = sampler
        self._load = partial(DataLoader, dataset, collate_fn=collate, num_workers=num_workers, pin_memory=pin_memory)

    def __len__(self) -> int:
        """Batches of a whole epoch, also while one is being resumed."""
        return len(self.sampler)

    def batches(self, place: Place) -> Iterator[dict[str, Any]]:
        """See `EpochLoader.batches`."""
        self.sampler.set_epoch(place.epoch)
        batches = self._load(batch_sampler=self.sampler.batches()[place.trained : place.batches])
        for batch, share in zip(batches, self._shares(place)[place.trained :], strict=True):
            yield {**batch, "share": share}

    def _shares(self, place: Place) -> list[float]:
        """Return the share of each batch that the epoch trains on: no tensor, which low precision would round.

        Lightning averages the gradients of the batches of a step, by the full number of them also in a last step that
        has fewer, and those of the processes.
        """
        tokens = [int(self._groups.supervised[step].sum()) for step in self.sampler.steps()[: place.batches]]
        starts = range(0, len(tokens), place.accumulate)
        steps = [sum(tokens[start : start + place.accumulate]) for start in starts]
        scale = place.accumulate * self.sampler.replicas
        return [scale / max(steps[number // place.accumulate], 1) for number in range(len(tokens))]


def hold_out(example_ids: Sequence[str], share: float, seed: int) -> frozenset[str]:
    """Choose a fraction of the distinct examples by a hash of seed and id, so that further examples change few choices.

    At least one is held out where `share` is not 0 and there are two or more; one at least is always left.
    """
    unique = sorted(set(example_ids), key=lambda name: derived_seed(seed, name, size=8))
    if share == 0 or len(unique) < 2:
        return frozenset()
    return frozenset(unique[: min(max(round(share * len(unique)), 1), len(unique) - 1)])
