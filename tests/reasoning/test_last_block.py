"""Leaving columns out of the last block changes neither values nor gradients, and is not done where it would."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from introspect.reasoning import last_block as module
from introspect.reasoning.last_block import last_block_at
from introspect.reasoning.likelihood import likelihood, predict_at
from introspect.reasoning.network import compile_blocks, recompute_activations, with_lora
from introspect.reasoning.packing import attention_mask, pack
from introspect.reasoning.supervision import Supervised
from tests.reasoning.tiny import tiny_model

VOCABULARY = 40
ANY, NONE = 1e-9, 2.0  # from which share of the columns on they are left out


def random_ids(*size):
    return torch.randint(VOCABULARY, size, generator=torch.Generator().manual_seed(0))


def from_column(first, *size):
    keep = torch.zeros(size, dtype=torch.bool)
    keep[:, first:] = True
    return keep


def learnt(network, inputs, keep, worth):
    """Logits, the gradients of a sum of them, and how many columns each feed-forward layer was given."""
    columns = []
    handles = [
        layer.register_forward_hook(lambda *call: columns.append(call[2].shape[1]))
        for name, layer in network.named_modules()
        if name.endswith("mlp")
    ]
    with pytest.MonkeyPatch.context() as patch:
        module._separable_block(network)  # tried beforehand: its columns are not counted
        columns.clear()
        patch.setattr(module, "WORTH", worth)
        logits = predict_at(network, inputs, keep)
    for handle in handles:
        handle.remove()
    weights = [p for p in network.parameters() if p.requires_grad]
    upstream = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=logits.dtype)
    return logits.detach(), torch.autograd.grad((logits * upstream).sum(), weights, allow_unused=True), columns


def assert_the_same(network, inputs, keep, columns, rtol=1e-9):
    few, gradients, given = learnt(network, inputs, keep, ANY)
    all_, wanted, _ = learnt(network, inputs, keep, NONE)
    assert given == columns
    torch.testing.assert_close(few, all_, rtol=rtol, atol=rtol)
    torch.testing.assert_close(gradients, wanted, rtol=rtol, atol=100 * rtol)


@settings(max_examples=20)
@given(st.lists(st.booleans(), min_size=14, max_size=14).filter(any))
def test_values_and_gradients_are_those_of_all_columns(mask):
    network, keep = tiny_model(VOCABULARY).double(), torch.tensor(mask).view(2, 7)
    first = int(keep.any(0).nonzero()[0])
    assert_the_same(network, {"input_ids": random_ids(2, 7)}, keep, [7, 7 - first])


def test_places_may_repeat_and_come_in_any_order():
    network, places = tiny_model(VOCABULARY).double(), torch.tensor([13, 4, 4, 10, 3])
    assert_the_same(network, {"input_ids": random_ids(2, 7)}, places, [7, 4])


def test_with_adapters_too():
    torch.manual_seed(0)
    network = with_lora(tiny_model(VOCABULARY), {"r": 2}).double()
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    assert_the_same(network, {"input_ids": random_ids(2, 7)}, from_column(4, 2, 7), [7, 3])


def test_packed_rows_keep_their_mask_and_their_positions():
    traces = ([1, 2, 3, 4, 5], [6, 7], [8, 9, 10]), ([11, 12, 13, 14], [15], [16, 17])
    groups = [tuple(Supervised((*prompt, *t), len(prompt)) for t in more) for prompt, *more in traces]
    batch = pack(groups, 0)
    assert len(batch["input_ids"]) == 2
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    inputs["attention_mask"] = attention_mask(batch, "sdpa", torch.float64)
    assert_the_same(tiny_model(VOCABULARY).double(), inputs, batch["source"], [10, 7])


def test_parts_of_the_logits_too(monkeypatch):
    network, keep = tiny_model(VOCABULARY).double(), from_column(5, 2, 7)
    ids, targets = random_ids(2, 7), random_ids(4)
    whole = likelihood(network, {"input_ids": ids}, keep, targets)
    monkeypatch.setattr("introspect.reasoning.likelihood.CHUNK", 3 * VOCABULARY)
    torch.testing.assert_close(likelihood(network, {"input_ids": ids}, keep, targets), whole)


def test_few_columns_of_a_row_are_not_left_out():
    network, ids = tiny_model(VOCABULARY), random_ids(2, 9)
    assert learnt(network, {"input_ids": ids}, from_column(2, 2, 9), module.WORTH)[2] == [9, 9]
    assert learnt(network, {"input_ids": ids}, from_column(3, 2, 9), module.WORTH)[2] == [9, 6]


def test_nothing_wanted_is_nothing_left_out():
    network, ids = tiny_model(VOCABULARY), random_ids(2, 9)
    logits, _, columns = learnt(network, {"input_ids": ids}, torch.zeros(2, 9, dtype=torch.bool), ANY)
    assert (logits.shape, columns) == ((0, VOCABULARY), [9, 9])


def test_places_among_the_columns_that_are_left():
    network = tiny_model(VOCABULARY)
    with last_block_at(network, 6, torch.tensor([4, 5, 9, 11])) as places:
        network(input_ids=random_ids(2, 6), use_cache=False)
    assert places.tolist() == [1, 2, 3, 5]


def test_a_network_that_was_run_in_another_way_is_an_error():
    network = tiny_model(VOCABULARY)
    with (
        pytest.raises(RuntimeError, match="the last block was to run once, and ran 0 times"),
        last_block_at(network, 6, torch.tensor([4])),
    ):
        pass


def families():
    import transformers as t

    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {**sizes, "intermediate_size": 16, "num_key_value_heads": 1, "initializer_range": 0.5, "pad_token_id": 0}
    experts = {"num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    windows = {"sliding_window": 3, "layer_types": ["full_attention", "sliding_attention"], "head_dim": 8}
    return {
        "llama": (t.LlamaForCausalLM, t.LlamaConfig(**more), True),
        "window in every block": (t.MistralForCausalLM, t.MistralConfig(**more, sliding_window=3), True),
        "window in the last block": (t.Gemma3ForCausalLM, t.Gemma3TextConfig(**more, **windows), True),
        "experts": (t.Qwen3MoeForCausalLM, t.Qwen3MoeConfig(**more, **experts, head_dim=8), True),
        "attention beside the feed-forward layer": (t.CohereForCausalLM, t.CohereConfig(**more), True),
        "a part is turned": (t.PhiForCausalLM, t.PhiConfig(**more), True),
        "positions that are learnt": (t.OPTForCausalLM, t.OPTConfig(**more, ffn_dim=16, word_embed_proj_dim=16), True),
        "told by place": (t.GPT2LMHeadModel, t.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40), False),
        "told another bias": (t.FalconForCausalLM, t.FalconConfig(**sizes, alibi=True), False),
        "no keys and values": (t.MambaForCausalLM, t.MambaConfig(**sizes), None),
    }


@pytest.mark.parametrize("family", families())
def test_families(family):
    kind, config, separable = families()[family]
    torch.manual_seed(0)
    network = kind(config).eval()
    for weight in network.parameters():
        if weight.ndim == 1:
            nn.init.normal_(weight, 1.0, 0.2)
    keep = from_column(6, 2, 11)
    keep[0, 6:8] = False
    ids = random_ids(2, 11)
    few, gradients, _ = learnt(network, {"input_ids": ids}, keep, ANY)
    all_, wanted, _ = learnt(network, {"input_ids": ids}, keep, NONE)
    torch.testing.assert_close(few, all_, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(gradients, wanted, strict=True):
        assert mine is theirs is None or (mine - theirs).norm() <= 1e-5 * theirs.norm() + 1e-4
    assert module._separable.get(network) == separable  # None: not even tried


@pytest.mark.parametrize(
    "how", ["blocks compiled", "compiled", "a part compiled", "recomputed", "recomputed by torch", "eager", "half"]
)
def test_networks_that_run_as_they_are(how, monkeypatch):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    network = tiny_model(VOCABULARY).train()
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    if how == "blocks compiled":
        compile_blocks(network)
    elif how == "compiled":
        network.compile(backend="eager")
    elif how == "a part compiled":
        network.model.layers[0].compile(backend="eager")
    elif how == "recomputed":
        recompute_activations(network)
    elif how == "recomputed by torch":
        blocks = type(network.model.layers[0])
        apply_activation_checkpointing(network, check_fn=lambda part: isinstance(part, blocks))
    elif how == "eager":
        network.set_attn_implementation("eager")
    else:
        network.bfloat16()
    assert module._separable_block(network) is None


def test_a_block_of_other_code_is_run_as_it_is():
    """It may look at what no trial on a few tokens can tell."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

    class Attention(Qwen3Attention):
        def forward(self, hidden_states, **options):
            if options["attention_mask"] is None and hidden_states.shape[1] > 8:
                hidden_states = hidden_states + hidden_states.mean()
            return super().forward(hidden_states, **options)

    network = tiny_model(VOCABULARY)
    network.model.layers[-1].self_attn.__class__ = Attention
    assert learnt(network, {"input_ids": random_ids(2, 9)}, from_column(6, 2, 9), ANY)[2] == [9, 9]


def test_a_switched_attention_is_obeyed():
    network, inputs, keep = tiny_model(VOCABULARY), {"input_ids": random_ids(2, 9)}, from_column(6, 2, 9)
    assert learnt(network, inputs, keep, ANY)[2] == [9, 3]
    network.set_attn_implementation("eager")
    assert learnt(network, inputs, keep, ANY)[2] == [9, 9]


class Mixing(nn.Module):
    """Reads all tokens behind the last block, as no family should."""

    def forward(self, states):
        return states + states.mean(1, keepdim=True)


class Failing(nn.Module):
    def forward(self, states):
        assert states.shape[1] != 4  # what the trial leaves
        return states


@pytest.mark.parametrize("layer", [Mixing, Failing])
def test_a_trial_that_fails_leaves_the_network_as_it_was(layer):
    network = tiny_model(VOCABULARY).train()
    network.model.norm = nn.Sequential(network.model.norm, layer())
    network.model.layers[0].eval()
    inputs, keep = {"input_ids": random_ids(2, 9)}, from_column(5, 2, 9)

    assert learnt(network, inputs, keep, ANY)[2] == [9, 9]
    assert module._separable[network] is False
    assert network.training
    assert not any(part.training for part in network.model.layers[0].modules())
    assert not any(part._forward_pre_hooks for part in network.modules())


def test_an_error_within_leaves_no_hook():
    network = tiny_model(VOCABULARY)
    with pytest.raises(IndexError), last_block_at(network, 6, torch.tensor([4])):
        network(input_ids=torch.full((1, 6), VOCABULARY), use_cache=False)
    assert not any(part._forward_pre_hooks for part in network.modules())


def test_a_network_with_another_use_of_its_head_is_run_as_it_is():
    network = tiny_model(VOCABULARY)
    network.model.register_forward_hook(lambda *call: (network.lm_head(call[2].last_hidden_state), None)[1])
    assert module._separable_block(network) is None


def test_it_is_tried_once_and_outside_the_chance_of_the_training():
    network, inputs, keep = tiny_model(VOCABULARY).train(), {"input_ids": random_ids(2, 9)}, from_column(5, 2, 9)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(network.training))
    torch.manual_seed(3)
    predict_at(network, inputs, keep)
    predict_at(network, inputs, keep)
    assert calls == [False, False, True, True]
    torch.testing.assert_close(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(3)))
