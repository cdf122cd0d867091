from __future__ import annotations

import pytest
import torch

from introspect.core.errors import InputError
from introspect.tuning.initialization import induction_ready

WORDS = 200


def network(**fields):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape = {
        "vocab_size": WORDS,
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "intermediate_size": 64,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }
    return Qwen3ForCausalLM(Qwen3Config(**{**shape, **fields})).eval()


def attentions():
    """Of the first two layers, [64, heads, 31, 31], where the last of 31 words repeats the one `asked` [64]."""
    model = network(attn_implementation="eager")
    induction_ready(model, seed=0)
    words = torch.stack([torch.randperm(WORDS, generator=torch.Generator().manual_seed(n))[:30] for n in range(64)])
    asked = torch.randint(2, 27, (64,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model(torch.cat([words, words[torch.arange(64), asked, None]], 1), output_attentions=True).attentions
    return found[0], found[1], asked


def test_each_head_of_the_first_layer_looks_a_fixed_distance_back():
    first, _, _ = attentions()
    distance = torch.arange(10, 31) - first[:, :, 10:].argmax(-1)
    assert torch.equal(distance, torch.tensor([1, 2, 3, 4])[None, :, None].expand_as(distance))


def test_the_second_layer_finds_a_word_again_before_any_training():
    _, second, asked = attentions()
    last = second[:, :, -1]
    assert (last.argmax(-1) == 30).all()  # itself first,
    elsewhere = last[:, :, :30].argmax(-1)
    assert (elsewhere == asked[:, None]).float().mean() > 5 / 30  # then its like, far more often than by chance


def test_weights_are_a_function_of_the_seed():
    models = [network(), network(), network()]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        induction_ready(model, seed=seed)
    first, again, other = (model.state_dict() for model in models)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_other_layers_stay_as_they_are():
    model, plain = network(), network().state_dict()
    induction_ready(model, seed=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, plain[name])}
    assert all(
        "embed_tokens" in name or "lm_head" in name or "layers.0" in name or "layers.1" in name for name in changed
    )
    assert not any("mlp" in name for name in changed)


@pytest.mark.parametrize("fields", [{"num_key_value_heads": 2}])
def test_other_networks_are_refused(fields):
    with pytest.raises(InputError, match=r"architecture.induction_ready: expected qwen3"):
        induction_ready(network(**fields), seed=0)
