from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule, Trainer

from introspect.core.errors import InputError
from introspect.core.resuming import place
from introspect.tuning.likelihood import predict_at
from introspect.tuning.loading import GroupedDataset, LengthBucketSampler, ResumableLoader, SupervisedDataset
from introspect.tuning.packing import attention_mask, best_fit, collate, collate_groups, group_tokens, pack, visible
from introspect.tuning.student import ReasoningStudent
from introspect.tuning.supervision import Supervised
from tests.tuning.tiny import tiny_folder, tiny_model

VOCABULARY = 40


def group(prompt: list[int], *traces: list[int]) -> tuple[Supervised, ...]:
    return tuple(Supervised((*prompt, *trace), len(prompt)) for trace in traces)


def test_collate_pads_on_the_right_and_labels_the_completion_only():
    batch = collate([Supervised((5, 6, 7), 2), Supervised((1, 2, 3, 4, 5), 1)], pad_id=9)

    assert batch["input_ids"].tolist() == [[5, 6, 7, 9, 9], [1, 2, 3, 4, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 7, -100, -100], [-100, 2, 3, 4, 5]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    # A model that pads with its end-of-turn token still learns to end the turn.
    labels = collate([Supervised((5, 9), 1), Supervised((1, 2, 3), 1)], pad_id=9)["labels"]
    assert labels[0].tolist() == [-100, 9, -100]


def test_a_prompt_occurs_once_and_positions_restart_after_it():
    batch = pack([group([5, 6, 7], [8, 9], [10, 11, 12])], pad_id=0)

    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10, 11, 12]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 5]]
    assert batch["trace"].tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    # The end of the prompt predicts the beginning of both.
    assert batch["source"].tolist() == [2, 3, 2, 5, 6]
    assert batch["target"].tolist() == [8, 9, 10, 11, 12]


def test_groups_fill_rows_and_rows_are_padded():
    groups = [group([1], [2, 3, 4, 5]), group([6, 7], [8]), group([9], [10])]
    batch = pack(groups, pad_id=0)

    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert batch["group"].tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
    assert pack(groups, pad_id=0, budget=4)["group"].tolist() == [
        [0, 0, 0, 0, 0],  # longer than the budget
        [0, 0, 0, -1, -1],
        [0, 0, -1, -1, -1],
    ]


def test_a_trace_looks_at_the_prompt_and_at_itself():
    batch = pack([group([5, 6], [7, 8], [9])], pad_id=0)

    assert visible(batch["group"], batch["trace"])[0].long().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 40))
def test_best_fit_places_everything_once_and_keeps_the_budget(lengths, budget):
    rows = best_fit(lengths, budget)

    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= budget or len(row) == 1 for row in rows)
    # No two rows would fit into one, or best-fit has missed a place.
    loads = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(loads) < 2 or loads[0] + loads[1] > budget


def test_best_fit_leaves_the_least_room():
    assert best_fit([4, 6, 5, 5], 10) == [[1, 0], [2, 3]]


groups_of = st.lists(
    st.tuples(
        st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=12),
        st.lists(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=9), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


def losses(model, batch, implementation="sdpa"):
    """Per-token losses in the order of a sorted key, and the gradients of their mean."""
    if "source" in batch:
        mask = attention_mask(batch, implementation, model.dtype)
        inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "attention_mask": mask}
        logits, targets = predict_at(model, inputs, batch["source"]), batch["target"]
    else:
        following = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)
        keep = following != -100
        logits, targets = predict_at(model, {"input_ids": batch["input_ids"]}, keep), following[keep]
    each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return each.detach().sort().values, torch.autograd.grad(each.mean(), list(model.parameters()))


@settings(max_examples=25)
@given(groups_of, st.sampled_from([None, 20, 60]), st.sampled_from(["sdpa", "eager"]))
def test_packed_rows_learn_what_separate_sequences_learn(drawn, budget, implementation):
    model = tiny_model(VOCABULARY, spread=0.3)
    model.set_attn_implementation(implementation)
    groups = [group(prompt, *traces) for prompt, traces in drawn]

    packed = losses(model, pack(groups, 0, budget), implementation)
    sequences = collate([item for members in groups for item in members], 0)
    separate = losses(model, sequences)
    exact = losses(model.double(), sequences)

    torch.testing.assert_close(packed[0], separate[0], rtol=1e-4, atol=1e-5)
    for mine, theirs, true in zip(packed[1], separate[1], exact[1], strict=True):
        if true.norm() > 1e-6:
            assert (mine - theirs).norm() <= 1e-5 * theirs.norm() + 1e-7
        else:  # queries and keys of rows of one token only: what both compute is how they round
            assert max(mine.norm(), theirs.norm()) < 1e-5


def test_the_block_mask_of_the_gpu_is_the_same_mask():
    groups = [group([5, 6, 7], [8, 9], [10, 11, 12]), group([1], [2]), group([3, 4], [5], [6], [7, 8])]
    batch = pack(groups, 0, budget=10)

    mask = attention_mask(batch, "flex_attention", torch.float32)
    shape = (*batch["group"].shape, batch["group"].shape[1])
    rows, queries, keys = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
    assert torch.equal(mask.mask_mod(rows, 0, queries, keys), visible(batch["group"], batch["trace"]))


def long_groups():
    """Rows of several blocks of 128 tokens, of which some are seen in full, some in part and some not at all."""
    rows = [((300,), (150, 140, 3)), ((20,), (260, 200)), ((130,), (128,))]
    return [group([5] * prompt, *([6] * length for length in traces)) for (prompt,), traces in rows]


def test_only_blocks_that_somebody_looks_at_are_computed():
    batch = pack(long_groups(), 0, budget=640)
    mask = attention_mask(batch, "flex_attention", torch.float32)

    rows, width = batch["group"].shape
    room = -width % 128
    seen = torch.nn.functional.pad(visible(batch["group"], batch["trace"]), (0, room, 0, room))
    blocks = seen.unflatten(2, (-1, 128)).unflatten(1, (-1, 128)).any(4).any(2)
    assert torch.equal(mask.to_dense()[:, 0].bool(), blocks)
    assert 0 < int(blocks.sum()) < rows * len(blocks[0]) * (len(blocks[0]) + 1) // 2  # fewer than causal attention


@pytest.mark.gpu
def test_on_a_gpu_rows_of_blocks_learn_what_separate_sequences_learn():
    groups = long_groups()
    model = tiny_model(VOCABULARY, context=1024, spread=0.3).cuda()
    found = []
    for implementation, batch in (
        ("flex_attention", pack(groups, 0, 640)),
        ("sdpa", collate([item for members in groups for item in members], 0)),
    ):
        model.set_attn_implementation(implementation)
        found.append(losses(model, {name: value.cuda() for name, value in batch.items()}, implementation))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(found[0][1], found[1][1], strict=True):
        assert (mine - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6


def test_an_attention_that_takes_no_mask_is_refused():
    with pytest.raises(InputError, match="attn_implementation=flash_attention_2 takes no mask of packed rows"):
        attention_mask(pack([group([1], [2], [3])], 0), "flash_attention_2", torch.float32)


def test_a_model_that_would_not_obey_the_mask_is_refused():
    from transformers import BloomConfig, BloomForCausalLM, GPTNeoConfig, GPTNeoForCausalLM

    layers = [[["global", "local"], 1]]
    neo = GPTNeoConfig(vocab_size=9, hidden_size=8, num_layers=2, num_heads=2, attention_types=layers)
    student = ReasoningStudent(model="somebody/model")
    for network in (BloomForCausalLM(BloomConfig(vocab_size=9, hidden_size=8, n_layer=1, n_head=2)),
                    GPTNeoForCausalLM(neo)):  # fmt: skip
        student.network = network
        with pytest.raises(InputError, match=r"packing: somebody/model .* set datamodule.packing=none"):
            student._losses(pack([group([1], [2], [3])], 0))


def test_sequences_of_one_prompt_make_a_group():
    items = [*group([1, 2], [3]), *group([4], [5, 6]), *group([1, 2], [7, 8])]
    dataset = GroupedDataset(SupervisedDataset(items), by_prompt=True)

    assert [dataset[i] for i in range(len(dataset))] == [(items[0], items[2]), (items[1],)]
    assert dataset.lengths.tolist() == [5, 3] == [group_tokens(dataset[i]) for i in range(2)]
    assert dataset.supervised.tolist() == [3, 2]
    # Equal prompts are those with equal tokens: here the same sequence has two.
    mixed = [Supervised((1, 2, 3), 2), Supervised((1, 2, 3), 1), Supervised((1, 2, 9, 9), 2), Supervised((1, 9), 1)]
    assert GroupedDataset(SupervisedDataset(mixed), by_prompt=True).members == [[0, 2], [1, 3]]
    single = GroupedDataset(SupervisedDataset(items), by_prompt=False)
    assert [single[i] for i in range(3)] == [(item,) for item in items]
    assert single.lengths.tolist() == [3, 3, 4]


def test_rows_are_packed_where_it_saves_something():
    alone, shared = [group([1, 2], [3]), group([4], [5, 6])], [group([1, 2], [3], [7, 8])]

    assert "labels" in collate_groups(alone, 0, "shared_prompt")
    assert "source" in collate_groups(shared, 0, "shared_prompt")
    assert "source" in collate_groups(alone, 0, "sequence", row_tokens=8)
    assert "labels" in collate_groups(shared, 0, "none")
    assert collate_groups(shared, 0, "none")["input_ids"].tolist() == [[1, 2, 3, 0], [1, 2, 7, 8]]


class Plan(LightningDataModule):
    """A step of six sequences of three prompts, in any packing, number of micro-batches and processes."""

    def __init__(self, packing, batch_size):
        super().__init__()
        self.packing, self.batch_size = packing, batch_size

    def train_dataloader(self):
        # Groups of like numbers of tokens, so that all ways of cutting the step give whole prompts.
        items = [*group([5, 6, 7, 8], [9, 10], [11, 12, 13]), *group([14, 15], [16], [17, 18, 19, 20])]
        items += [*group([21, 22, 23], [24, 25, 26], [27]), *group([28], [29, 30], [31, 32])]
        groups = GroupedDataset(SupervisedDataset(items), by_prompt=self.packing == "shared_prompt")
        sampler = LengthBucketSampler(
            groups.lengths,
            self.batch_size * self.trainer.world_size,
            replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            shuffle=False,
        )
        return ResumableLoader(
            groups,
            sampler,
            collate=partial(collate_groups, pad_id=0, packing=self.packing),
            place=lambda: place(self.trainer),
        )


def weights_after_a_step(folder, packing, batch_size, *, lora=None, **options):
    torch.manual_seed(0)
    student = ReasoningStudent(model=str(folder), lr=1e-2, warmup_ratio=0, schedule="constant", lora=lora)
    # Plain gradients: Adam would blow rounding up where a gradient is nearly nothing.
    student.configure_optimizers = lambda: torch.optim.SGD(student.parameters(), 0.5)
    trainer = Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(student, Plan(packing, batch_size))
    return {name: value.detach().clone() for name, value in student.named_parameters() if value.requires_grad}


WAYS = {
    "separate": ("none", 8, {}),
    "packed": ("shared_prompt", 4, {}),
    "packed in micro-batches": ("shared_prompt", 1, {"accumulate_grad_batches": 4}),
    "separate in micro-batches": ("none", 2, {"accumulate_grad_batches": 4}),
    "sequences in rows": ("sequence", 8, {}),
}


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_a_step_is_the_same_step_however_it_is_packed(tmp_path, lora):
    folder = tiny_folder(tmp_path)
    steps = {
        name: weights_after_a_step(folder, packing, size, lora=lora, **options)
        for name, (packing, size, options) in WAYS.items()
    }
    start = weights_after_a_step(folder, "none", 8, lora=lora, limit_train_batches=0)
    moved = 0.0
    for name, expected in steps["separate"].items():
        change = (expected - start[name]).norm()
        moved += float(change)
        for way, weights in steps.items():
            assert (weights[name] - expected).norm() <= 1e-5 * change + 1e-7, (way, name)
    assert moved > 0.01


def test_a_step_that_the_end_of_a_short_epoch_cuts_off_is_a_whole_step(tmp_path):
    """One of six micro-batches, two to a step: the step has one batch, and is the mean over its tokens."""
    folder = tiny_folder(tmp_path)
    ways = [{"accumulate_grad_batches": 2, "limit_train_batches": 1}, {"limit_train_batches": 1}]

    cut, whole = (weights_after_a_step(folder, "none", 2, **way) for way in ways)

    assert all(torch.allclose(cut[name], whole[name], rtol=1e-6) for name in whole)


@pytest.mark.slow
def test_two_processes_take_the_same_step(tmp_path):
    folder = tiny_folder(tmp_path)
    alone = weights_after_a_step(folder, "none", 8)
    script = tmp_path / "two.py"
    script.write_text(
        "import sys, torch\n"
        "from lightning.pytorch.strategies import DDPStrategy\n"
        "from tests.tuning.test_packing import weights_after_a_step\n"
        "if __name__ == '__main__':\n"
        "    weights = weights_after_a_step(sys.argv[1], 'shared_prompt', 2, devices=2,\n"
        "        strategy=DDPStrategy(process_group_backend='gloo'))\n"
        "    if torch.distributed.get_rank() == 0: torch.save(weights, sys.argv[2])\n",
        encoding="utf-8",
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder), str(tmp_path / "weights.pt")]
    subprocess.run(command, env=environment, check=True, timeout=180, cwd=tmp_path, capture_output=True)
    for name, value in torch.load(tmp_path / "weights.pt", weights_only=True).items():
        torch.testing.assert_close(value, alone[name], rtol=1e-5, atol=1e-6)
