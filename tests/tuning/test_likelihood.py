"""What is computed in parts, again in the backward pass, is what is computed at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from introspect.tuning import likelihood as module
from introspect.tuning.likelihood import likelihood, predict_at
from tests.tuning.tiny import tiny_model

VOCABULARY = 40


def plain(network: Any, ids: torch.Tensor, keep: torch.Tensor, targets: torch.Tensor, temperature: float) -> Any:
    logits = network(input_ids=ids).logits[keep] / temperature
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0], logits.argmax(-1) == targets


@settings(max_examples=15)
@given(
    mask=st.lists(st.booleans(), min_size=12, max_size=12).filter(any),
    chunk=st.sampled_from([1, VOCABULARY, 3 * VOCABULARY, 1 << 27]),
    temperature=st.sampled_from([1.0, 0.6]),
)
def test_values_and_gradients_are_those_of_all_logits(mask: list[bool], chunk: int, temperature: float) -> None:
    network, keep = tiny_model(VOCABULARY).double(), torch.tensor(mask).view(2, 6)
    ids = torch.randint(VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))
    targets = torch.randint(VOCABULARY, (sum(mask),), generator=torch.Generator().manual_seed(1))
    weights = list(network.parameters())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found, hits = likelihood(network, {"input_ids": ids}, keep, targets, temperature=temperature)
        gradients = torch.autograd.grad(found.sum(), weights)

    expected, expected_hits = plain(network, ids, keep, targets, temperature)

    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert hits.equal(expected_hits)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.sum(), weights), rtol=1e-4, atol=1e-5)
    assert not network.get_output_embeddings()._forward_pre_hooks


def test_no_more_logits_are_held_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 5 * VOCABULARY)
    network, sizes = tiny_model(VOCABULARY), []
    network.get_output_embeddings().register_forward_hook(lambda *call: sizes.append(call[2].shape[:-1].numel()))
    ids, places = torch.zeros(2, 9, dtype=torch.int64), torch.tensor([3, 3, 4, 5, 10, 11, 12, 13, 14, 15, 17])

    found, _ = likelihood(network, {"input_ids": ids}, places, places)
    forward, sizes[:] = sizes[:], []
    found.sum().backward()

    # Whether logits are changed afterwards, the hidden states, the parts.
    assert forward == [8, 1, 5, 5, 1]
    assert sorted(sizes) == [1, 5, 5]


def test_the_head_is_tried_first_and_leaves_the_random_state_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_model(VOCABULARY)
    network.model.layers[0].mlp.act_fn = nn.Sequential(nn.SiLU(), nn.Dropout(0.5))
    network.train()
    ids, places = torch.zeros(1, 6, dtype=torch.int64), torch.tensor([1, 2, 4])

    def drawn() -> torch.Tensor:
        torch.manual_seed(3)
        return likelihood(network, {"input_ids": ids}, places, places)[0].detach()

    few = drawn()
    assert module._bare[network]  # also where it does not matter yet: processes that share weights try it together
    assert drawn().equal(few)
    monkeypatch.setattr(module, "CHUNK", VOCABULARY)
    torch.testing.assert_close(drawn(), few)


def test_logits_that_the_model_changes_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    monkeypatch.setattr(module, "CHUNK", 1)
    config = Gemma2Config(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        final_logit_softcapping=0.01,
        initializer_range=1.0,
    )
    network, ids = Gemma2ForCausalLM(config).eval(), torch.tensor([[1, 2, 3]])

    with torch.no_grad():
        found, _ = likelihood(network, {"input_ids": ids}, torch.tensor([0, 2]), torch.tensor([4, 5]))
        logits = network(input_ids=ids).logits[0, [0, 2]]
        kept = predict_at(network, {"input_ids": ids}, torch.tensor([[True, False, True]]))

    torch.testing.assert_close(found, -functional.cross_entropy(logits, torch.tensor([4, 5]), reduction="none"))
    torch.testing.assert_close(kept, logits)
    assert logits.abs().max() <= 0.01


def test_a_model_without_output_embedding_computes_all_logits() -> None:
    class Headless(nn.Module):
        def get_output_embeddings(self) -> None:
            return None

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            return type("Output", (), {"logits": functional.one_hot(input_ids, 5).float()})

    logits = predict_at(Headless(), {"input_ids": torch.tensor([[1, 2]])}, torch.tensor([[False, True]]))

    assert logits.tolist() == [[0, 0, 1, 0, 0]]


def test_the_head_keeps_no_hook_after_a_failure() -> None:
    network = tiny_model(VOCABULARY)
    with pytest.raises(IndexError):
        predict_at(network, {"input_ids": torch.tensor([[4, 5]])}, torch.ones(1, 3, dtype=torch.bool))

    assert not network.get_output_embeddings()._forward_pre_hooks
