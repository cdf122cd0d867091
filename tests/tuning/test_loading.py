from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.core.resuming import Place
from introspect.tuning.loading import GroupedDataset, LengthBucketSampler, ResumableLoader, SupervisedDataset, hold_out
from introspect.tuning.packing import collate_groups
from introspect.tuning.supervision import Supervised

SHORT = Supervised((5, 6, 7), 2)
LONG = Supervised((1, 2, 3, 4, 5), 1)


def test_a_dataset_returns_its_sequences():
    dataset = SupervisedDataset(iter([SHORT, LONG]))

    assert [dataset[i] for i in range(len(dataset))] == [SHORT, LONG]
    assert dataset.lengths.tolist() == [3, 5]
    assert len(SupervisedDataset([])) == 0


def test_the_fingerprint_depends_on_tokens_masks_and_order():
    fingerprints = {
        SupervisedDataset(items).fingerprint
        for items in ([SHORT, LONG], [LONG, SHORT], [SHORT], [Supervised((5, 6, 7), 1), LONG])
    }

    assert len(fingerprints) == 4
    assert SupervisedDataset([SHORT, LONG]).fingerprint in fingerprints


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=80),
    step=st.integers(1, 25),
    replicas=st.integers(1, 9),
    epoch=st.integers(0, 3),
)
def test_every_sequence_comes_once_and_every_process_has_as_many_steps(lengths, step, replicas, epoch):
    shares = []
    for rank in range(replicas):
        sampler = LengthBucketSampler(torch.tensor(lengths), step, seed=1, replicas=replicas, rank=rank)
        sampler.set_epoch(epoch)
        shares.append(sampler.batches())
        assert len(sampler) == len(shares[-1])
        assert all(len(batch) <= -(-step // replicas) for batch in shares[-1])

    drawn = sorted(index for share in shares for batch in share for index in batch)
    assert drawn == list(range(len(lengths)))
    # In a step processes have equally many, or the first ones of an uneven step one more.
    sizes = [[len(batch) for batch in step] for step in zip(*shares, strict=True)]
    assert all(step == sorted(step, reverse=True) and step[0] - step[-1] <= 1 and step[0] for step in sizes)


def test_order_depends_on_seed_and_epoch_alone():
    def batches(seed, epoch):
        sampler = LengthBucketSampler(torch.arange(40), 4, seed=seed)
        sampler.set_epoch(epoch)
        return sampler.batches()

    assert batches(0, 1) == batches(0, 1)
    assert len({str(batches(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_batches_have_sequences_of_similar_length():
    lengths = torch.randint(1, 1000, (640,), generator=torch.Generator().manual_seed(0))
    sampler = LengthBucketSampler(lengths, 8, seed=0)

    padded = sum(len(batch) * int(lengths[batch].max()) for batch in sampler.batches())

    assert padded < 1.1 * int(lengths.sum())  # random batches: 1.8


def test_without_shuffling_the_order_is_that_of_the_data():
    sampler = LengthBucketSampler(torch.tensor([3, 1, 2]), 2, shuffle=False)

    assert sampler.batches() == [[0, 1], [2]]


def loader(count=10, batch_size=2, items=None, sampling=None, **options):
    items = items or [Supervised((i, i + 1), 1) for i in range(count)]
    dataset = GroupedDataset(SupervisedDataset(items), by_prompt=False)
    sampler = LengthBucketSampler(dataset.lengths, batch_size * (sampling or {}).get("replicas", 1), **(sampling or {}))
    return ResumableLoader(dataset, sampler, collate=partial(collate_groups, pad_id=0, packing="none"), **options)


def firsts(batches):
    return [batch["input_ids"][:, 0].tolist() for batch in batches]


def test_loader_goes_on_from_its_place():
    whole = loader()
    whole.sampler.set_epoch(3)

    rest = loader(place=lambda: Place(3, 2))

    assert len(firsts(whole)) == len(rest) == 5
    assert firsts(rest) == firsts(whole)[2:]
    assert rest.state_dict() == {"epoch": 3, "trained": 2}


def test_the_place_is_read_with_the_first_batch():
    place = [Place(0, 0)]
    iterator = iter(loader(place=lambda: place[0]))
    place[0] = Place(3, 4)

    assert len(list(iterator)) == 1


def test_lightning_takes_the_loader_for_one_that_can_resume():
    from lightning.fabric.utilities.types import _Stateful

    assert isinstance(loader(), _Stateful)


def test_workers_make_the_same_batches():
    assert firsts(loader(num_workers=1)) == firsts(loader())


def test_hold_out_is_by_example_and_leaves_one():
    ids = [f"e{number}" for number in range(100)]

    assert len(hold_out(ids * 2, 0.1, seed=0)) == 10
    assert hold_out(ids, 0.1, seed=0) == hold_out(ids[::-1], 0.1, seed=0) != hold_out(ids, 0.1, seed=1)
    assert len(hold_out(ids, 0.1, seed=0) - hold_out(ids[:99], 0.1, seed=0)) <= 1
    assert hold_out(ids, 0.0, seed=0) == hold_out(["e"], 0.5, seed=0) == frozenset()
    assert len(hold_out(ids[:2], 0.01, seed=0)) == len(hold_out(ids[:2], 0.99, seed=0)) == 1


@given(
    completions=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    batch_size=st.integers(1, 3),
    replicas=st.integers(1, 3),
    accumulate=st.integers(1, 4),
)
def test_shares_make_the_loss_of_a_step_the_mean_over_its_tokens(completions, batch_size, replicas, accumulate):
    items = [Supervised((1, 2, *range(count)), 2) for count in completions]
    ranks = [
        list(
            loader(
                items=items,
                batch_size=batch_size,
                place=lambda: Place(0, 0, accumulate=accumulate),
                sampling={"replicas": replicas, "rank": rank},
            )
        )
        for rank in range(replicas)
    ]
    for start in range(0, len(ranks[0]), accumulate):
        step = [batch for batches in ranks for batch in batches[start : start + accumulate]]
        tokens = [int((batch["labels"] != -100).sum()) for batch in step]
        # Lightning divides by `accumulate`, and averages over processes.
        weights = [float(batch["share"]) / accumulate / replicas for batch in step]
        assert all(abs(weight * sum(tokens) - 1) < 1e-5 for weight in weights)


@given(
    completions=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    accumulate=st.integers(1, 4),
    batches=st.integers(1, 8),
    trained=st.integers(0, 3),
)
def test_shares_count_only_the_batches_that_are_trained_on(completions, accumulate, batches, trained):
    """With `limit_train_batches` the last step of an epoch may have fewer batches than the data would give."""
    items = [Supervised((1, 2, *range(count)), 2) for count in completions]
    given_place = Place(0, trained, batches, accumulate)

    whole = list(loader(items=items, place=lambda: Place(0, 0, batches, accumulate)))
    rest = list(loader(items=items, place=lambda: given_place))

    assert len(whole) == min(batches, -(-len(items) // 2))
    assert [b["share"] for b in rest] == [b["share"] for b in whole[trained:]]
    for start in range(0, len(whole), accumulate):
        step = whole[start : start + accumulate]
        tokens = sum(int((batch["labels"] != -100).sum()) for batch in step)
        assert all(batch["share"] / accumulate * tokens == pytest.approx(1) for batch in step)
