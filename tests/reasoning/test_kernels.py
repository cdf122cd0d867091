from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.reasoning.kernels import root_mean_square_norm, rotate, use_kernels
from introspect.reasoning.network import recompute_activations, with_lora
from introspect.reasoning.student import ReasoningStudent
from tests.reasoning.tiny import tiny_model


def written_out(states, weight, eps):
    return states / (states.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def test_exact_values():
    states = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    root = (25 / 2) ** 0.5
    expected = torch.tensor([[3 / root, 2 * 4 / root], [0.0, 0.0]])
    torch.testing.assert_close(root_mean_square_norm(states, torch.tensor([1.0, 2.0]), 1e-12), expected)


@given(st.lists(st.integers(1, 4), max_size=3), st.integers(1, 9), st.integers(0, 99), st.floats(1e-6, 1))
def test_value_and_gradients_are_those_of_the_formula(rows, width, seed, eps):
    numbers = torch.Generator().manual_seed(seed)
    shape = (*rows, width)
    states = torch.randn(shape, generator=numbers, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(width, generator=numbers, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(shape, generator=numbers, dtype=torch.float64)
    ours, plain = (norm(states, weight, eps) for norm in (root_mean_square_norm, written_out))
    torch.testing.assert_close(ours, plain)
    for got, wanted in zip(*(torch.autograd.grad(y, (states, weight), upstream) for y in (ours, plain)), strict=True):
        torch.testing.assert_close(got, wanted)


def test_finite_differences():
    states = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *given: root_mean_square_norm(*given, 1e-3), (states, weight))


def test_states_that_do_not_lie_in_order():
    states = torch.randn(3, 4, 6, requires_grad=True)
    weight, upstream = torch.randn(6), torch.randn(4, 3, 6).transpose(0, 1)
    ours, plain = (norm(states.transpose(0, 1), weight, 1e-6) for norm in (root_mean_square_norm, written_out))
    [got], [wanted] = (torch.autograd.grad(y, states, upstream.transpose(0, 1)) for y in (ours, plain))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("frozen", ["states", "weight"])
def test_what_is_frozen_gets_no_gradient(frozen):
    states, weight = (
        torch.randn(2, 4, requires_grad=frozen != "states"),
        torch.randn(4, requires_grad=frozen != "weight"),
    )
    root_mean_square_norm(states, weight, 1e-6).sum().backward()
    assert (states.grad is None) == (frozen == "states")
    assert (weight.grad is None) == (frozen == "weight")


def gradients(network):
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [3, 4, 5, 6, 7, 8]])
    loss = network(input_ids=ids, labels=ids, use_cache=False).loss
    return loss, torch.autograd.grad(loss, [p for p in network.parameters() if p.requires_grad])


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_network_keeps_its_loss_and_gradients(lora, recompute):
    networks = []
    for _ in range(2):
        network = tiny_model(64).train()
        if recompute:
            recompute_activations(network)
        torch.manual_seed(0)
        networks.append(with_lora(network, {"r": 2}) if lora else network)
    plain, lean = networks
    # Of two blocks: in front of attention and MLP, of queries and keys; and the last one.
    assert use_kernels(lean) == (9, 2)
    assert lean.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(gradients(lean), gradients(plain), rtol=1e-5, atol=1e-6)


def turned(q, k, cos, sin):
    from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

    return apply_rotary_pos_emb(q, k, cos, sin)


@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99)
)
def test_rotations_and_their_gradients_are_those_of_transformers(b, heads, groups, s, half, seed):
    numbers = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=numbers, dtype=torch.float64)

    q, k = (random(b, s, h, 2 * half).transpose(1, 2).requires_grad_() for h in (heads, groups))
    cos, sin = random(b, s, 2 * half), random(1, s, 2 * half)  # also where the halves are not of one angle
    upstream = random(b, heads, s, 2 * half), random(b, groups, s, 2 * half)
    ours, theirs = rotate(q, k, cos, sin), turned(q, k, cos, sin)
    torch.testing.assert_close(ours, theirs)
    got, wanted = (torch.autograd.grad(pair, (q, k), upstream) for pair in (ours, theirs))
    torch.testing.assert_close(got, wanted)


def test_a_rotation_keeps_the_length_of_each_pair():
    q = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    angle = torch.full((1, 1, 2), torch.pi / 2)
    torch.testing.assert_close(rotate(q, q, angle.cos(), angle.sin())[0].flatten(), torch.tensor([-4.0, 3.0]))


def test_answers_and_other_number_formats_are_computed_as_ever(monkeypatch):
    network = tiny_model(64)
    ids = torch.tensor([[5, 6, 7]])
    plain = network(input_ids=ids).logits
    use_kernels(network)

    def refuse(*_):
        raise AssertionError("ours")

    monkeypatch.setattr("introspect.reasoning.kernels.root_mean_square_norm", refuse)
    monkeypatch.setattr("introspect.reasoning.kernels._with_rotate", refuse)
    with torch.no_grad():
        torch.testing.assert_close(network(input_ids=ids).logits, plain, rtol=0, atol=0)
    network.bfloat16()(input_ids=ids)
    with pytest.raises(AssertionError, match="ours"):
        network.float()(input_ids=ids)


def test_mixed_precision_is_trained_as_ever():
    plain, fast = tiny_model(64).train(), tiny_model(64).train()
    use_kernels(fast)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(gradients(fast), gradients(plain), rtol=0.01, atol=1e-4)


def test_a_copy_of_a_network_has_kernels_of_its_own():
    network = tiny_model(64)
    use_kernels(network)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        twin.model.norm.weight.fill_(2.0)
    states = torch.randn(1, 2, 32)
    torch.testing.assert_close(twin.model.norm(states), 2 * network.model.norm(states))
    assert twin.model.layers[0].self_attn.forward.args == (twin.model.layers[0].self_attn,)


def test_a_network_can_be_pickled():
    network = tiny_model(64)
    use_kernels(network)
    twin = pickle.loads(pickle.dumps(network))
    assert twin.model.norm.forward.args == (twin.model.norm,)
    torch.testing.assert_close(gradients(twin), gradients(network), rtol=0, atol=0)


def test_other_networks_of_the_process_stay_as_they_are():
    from transformers.models.qwen3 import modeling_qwen3

    before = modeling_qwen3.apply_rotary_pos_emb
    network = tiny_model(64)
    use_kernels(network)
    gradients(network)
    assert modeling_qwen3.apply_rotary_pos_emb is before
    assert "forward" not in vars(tiny_model(64).model.layers[0].self_attn)


def test_families_that_compute_something_else_stay_as_they_are():
    from transformers import (
        CohereConfig,
        CohereForCausalLM,
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        GPT2Config,
        GPT2LMHeadModel,
    )

    sizes = {"vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"intermediate_size": 16, "num_key_value_heads": 1}
    # Norms that multiply by 1 + weight, rotations as everywhere.
    assert use_kernels(Gemma3ForCausalLM(Gemma3TextConfig(**sizes, **more, head_dim=8))) == (0, 1)
    # Norms with a mean, rotations of neighbours.
    assert use_kernels(CohereForCausalLM(CohereConfig(**sizes, **more))) == (0, 0)
    assert use_kernels(GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=16))) == (0, 0)


def test_families_that_rotate_a_part_or_otherwise_train_as_ever():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, GptOssConfig, GptOssForCausalLM

    sizes = {"vocab_size": 16, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    part = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, intermediate_size=16)).train()
    more = {"intermediate_size": 16, "num_key_value_heads": 1, "head_dim": 8, "num_local_experts": 2}
    other = GptOssForCausalLM(GptOssConfig(**sizes, **more, num_experts_per_tok=1, layer_types=["full_attention"]))
    for network, attentions in ((part, 1), (other, 0)):
        plain = gradients(network)
        assert use_kernels(network)[1] == attentions
        torch.testing.assert_close(gradients(network), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device_type", ["cpu", "meta"])
def test_a_student_trains_with_them_on_a_cpu(device_type, monkeypatch):
    student = ReasoningStudent(model="unused")
    student.network = tiny_model(64)
    monkeypatch.setattr(ReasoningStudent, "device", torch.device(device_type))
    student.on_fit_start()
    assert ("forward" in vars(student.network.model.norm)) == (device_type == "cpu")


def test_a_compiled_student_does_without_also_in_a_second_training(monkeypatch):
    student = ReasoningStudent(model="unused", compile=True)
    student.network = tiny_model(64)
    calls = []
    monkeypatch.setattr("introspect.reasoning.student.compile_blocks", calls.append)
    student.on_fit_start()
    student.on_fit_start()
    assert calls == [student.network]
    assert "forward" not in vars(student.network.model.norm)
