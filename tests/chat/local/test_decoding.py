from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from introspect.chat.local.cache import RowLayer, is_ragged, row_cache, takes_rows
from introspect.chat.local.decoding import Decoder, Prompt
from introspect.core.errors import InputError
from tests.tuning.tiny import tiny_model

VOCABULARY = 60
STOPS = (1, 2, 3, 4)
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": None,
    "bos_token_id": None,
}


def shape(*names: str) -> dict[str, Any]:
    """The entries that other configurations have too."""
    return {name: SHAPE[name] for name in (*names, "vocab_size", "hidden_size", "bos_token_id", "eos_token_id")}


def full() -> Any:
    return tiny_model(VOCABULARY, spread=0.3)


def sliding() -> Any:
    """A window shorter than most prompts, beside a layer with full attention."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    layers = ["sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, sliding_window=9, layer_types=layers)).eval()


def linear() -> Any:
    """A recurrent state beside a layer with full attention, as in the newest Qwen models."""
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    heads: dict[str, Any] = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    }
    experts: dict[str, Any] = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    layers = ["linear_attention", "full_attention"]
    config = Qwen3NextConfig(**SHAPE, **heads, **experts, shared_expert_intermediate_size=16, layer_types=layers)
    return Qwen3NextForCausalLM(config).eval()


def latent() -> Any:
    """Keys and values of different width."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    torch.manual_seed(1)
    widths = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    shape = {**{name: value for name, value in SHAPE.items() if name != "head_dim"}, "num_key_value_heads": 4}
    return DeepseekV3ForCausalLM(DeepseekV3Config(**shape, **widths, first_k_dense_replace=2)).eval()


def local() -> Any:
    """A layer that looks back a few columns, which its configuration calls by another name than the others do."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    layers = [[["global", "local"], 1]]
    sizes: dict[str, Any] = {"num_layers": 2, "num_heads": 4, "window_size": 5, "attention_types": layers}
    config = GPTNeoConfig(**shape("max_position_embeddings", "initializer_range"), **sizes)
    return GPTNeoForCausalLM(config).eval()


def biased() -> Any:
    """Scores that fall with the distance of two columns."""
    from transformers import FalconConfig, FalconForCausalLM

    names = ("num_hidden_layers", "num_attention_heads", "initializer_range", "max_position_embeddings")
    return FalconForCausalLM(FalconConfig(**shape(*names), alibi=True)).eval()


def prompts(count: int = 14, **settings_: Any) -> list[Prompt]:
    rng = random.Random(1)
    drawn: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "top_k": 0} | settings_
    return [
        Prompt(
            tag, tuple(rng.choices(range(5, VOCABULARY), k=rng.randint(1, 24))), rng.randint(1, 20), **drawn, seed=tag
        )
        for tag in range(count)
    ]


def decode(model: Any, asked: list[Prompt], batch_size: int) -> dict[int, tuple[list[int], bool]]:
    decoder = Decoder(model, stop_ids=STOPS, pad_id=0, batch_size=batch_size)
    completions = list(decoder.decode(iter(asked)))
    assert sorted(completion.prompt.tag for completion in completions) == sorted(prompt.tag for prompt in asked)
    return {completion.prompt.tag: (completion.ids, completion.stopped) for completion in completions}


@pytest.mark.parametrize("family", [full, sliding, linear, local, biased, latent])
def test_greedy_rows_are_those_of_generate(family: Any) -> None:
    """Rows of different lengths that come and go in a batch of 4, against one row at a time."""
    torch.manual_seed(11)  # with these weights some rows stop and some do not
    model = family()
    asked = prompts()
    decoded = decode(model, asked, batch_size=4)
    for prompt in asked:
        ids = torch.tensor([prompt.ids])
        generated = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=prompt.limit,
            do_sample=False,
            eos_token_id=list(STOPS),
            pad_token_id=0,
        )[0, ids.shape[1] :].tolist()
        assert decoded[prompt.tag] == (generated, generated[-1] in STOPS)
    # With these weights the model with biased scores never stops.
    assert (family is biased) or 0 < sum(stopped for _, stopped in decoded.values()) < len(asked)


@pytest.mark.parametrize("batch_size", [1, 3, 14])
def test_drawn_rows_do_not_depend_on_the_batch(batch_size: int) -> None:
    # In double precision, so that rounding cannot tip a draw.
    model = full().double()
    asked = prompts(temperature=1.0, top_p=0.95, top_k=20)
    assert decode(model, asked, batch_size) == decode(model, asked[::-1], 5)


def test_no_step_is_spent_on_a_finished_row() -> None:
    model = full()
    steps: list[int] = []
    forward = model.forward

    def counting(**inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] == 1:
            steps.append(len(inputs["input_ids"]))
        return forward(**inputs)

    asked = [prompt for prompt in prompts(30) if len(prompt.ids) > 1]
    decoder = Decoder(model, stop_ids=STOPS, pad_id=0, batch_size=6)
    model.forward = counting
    completions = list(decoder.decode(asked))
    # The first token of a row comes with its prompt, each further one with a step.
    assert sum(steps) == sum(len(completion.ids) - 1 for completion in completions)
    # Waiting prompts fill the places of finished ones: the batch does not run dry until the end.
    assert sum(steps[: len(steps) // 2]) > 0.7 * 6 * (len(steps) // 2)


def test_the_same_prompt_is_read_once_for_several_draws() -> None:
    model = full()
    read: list[int] = []
    embed = model.get_input_embeddings()
    embed.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].numel()))
    first, second = prompts(2, temperature=1.0)
    asked = [Prompt(i, p.ids, 1, 1.0, 1.0, 0, seed=i) for i, p in enumerate([first, first, second, first])]
    decoded = decode(model, asked, 4)
    assert read == [2 * max(len(first.ids), len(second.ids))]
    alone = {prompt.tag: decode(model, [prompt], 1)[prompt.tag] for prompt in asked}
    assert decoded == alone


def test_completions_stream_and_prompts_are_taken_late() -> None:
    taken: list[int] = []

    def endless() -> Any:
        for prompt in prompts(10_000):
            taken.append(prompt.tag)
            yield prompt

    completions: Any = Decoder(full(), stop_ids=STOPS, pad_id=0, batch_size=4).decode(endless())
    early = [next(completions) for _ in range(10)]
    completions.close()
    assert len(taken) <= 10 + 4
    assert len({completion.prompt.tag for completion in early}) == 10


def test_prompts_without_room_complete_at_once() -> None:
    asked = [
        Prompt(0, (7, 8), 0, 0.0, 1.0, 0, 0),
        Prompt(1, (7, 8), 2, 0.0, 1.0, 0, 0),
        Prompt(2, (9,), -3, 0.0, 1.0, 0, 0),
    ]
    decoded = decode(full(), asked, 2)
    assert decoded[0] == decoded[2] == ([], False)
    assert decoded[1][0]
    assert decode(full(), asked[:1], 2) == {0: ([], False)}
    assert decode(full(), [], 2) == {}


def test_a_model_without_cache_is_refused() -> None:
    class Plain(torch.nn.Linear):
        device = torch.device("cpu")

    with pytest.raises(InputError, match="Plain: expected a causal language model with a key-value cache"):
        Decoder(Plain(2, 2), stop_ids=(), pad_id=0, batch_size=1)


def test_a_test_of_lightning_draws_the_same() -> None:
    model = full()
    with torch.inference_mode():
        first = decode(model, prompts(3), 2)
    assert decode(model, prompts(3), 2) == first


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_answers_fill_the_context_and_stay_inside_it(attention: str) -> None:
    """Learned positions have no row behind the context."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    config = GPT2Config(vocab_size=12, n_positions=40, n_embd=16, n_layer=1, n_head=2, initializer_range=0.02)
    model = GPT2LMHeadModel._from_config(config, attn_implementation=attention).eval()
    asked = [Prompt(tag, (5, 6, 7) * (tag + 1), 40 - 3 * (tag + 1), 0.0, 1.0, 0, tag) for tag in range(3)]
    texts = {c.prompt.tag: c.ids for c in Decoder(model, stop_ids=(), pad_id=0, batch_size=2).decode(asked)}
    assert [len(texts[tag]) for tag in range(3)] == [37, 34, 31]


def test_only_models_with_positions_and_full_attention_take_rows_of_different_length() -> None:
    assert is_ragged(row_cache(full().config))
    assert [isinstance(layer, RowLayer) for layer in row_cache(sliding().config).layers] == [False, True]
    assert [takes_rows(family()) for family in (full, sliding, linear, local, biased)] == [True, *[False] * 4]
