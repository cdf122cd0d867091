from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from introspect.chat.local.transformers import TransformersChat
from introspect.chat.protocol import ChatRequest, ChatResponse, Message, Sampling
from introspect.core.errors import InputError
from tests.tuning.tiny import TEMPLATE, tiny_folder, tiny_model, tiny_tokenizer

# The prompt that `ask("?")` is rendered to, one token per byte or tag.
PROMPT_TOKENS = len("0user\n?0\n0assistant\n")


def ask(text: str = "?", id_: str = "0", sample: int = 0, **settings: Any) -> ChatRequest:
    return ChatRequest(id_, (Message("user", text),), Sampling(**{"max_tokens": 24, **settings}), sample)


def many(count_: int = 11) -> list[ChatRequest]:
    """Different prompts, lengths and settings."""
    return [
        ask("x" * (index * 7 % 13), str(index), index, temperature=(0.0, 0.6, 1.0)[index % 3], max_tokens=9 + index)
        for index in range(count_)
    ]


def chat(**options: Any) -> TransformersChat:
    """The tiny model in double precision, where rounding cannot tip a draw."""
    tokenizer = tiny_tokenizer()
    return TransformersChat(tiny_model(len(tokenizer)).double(), tokenizer, **{"batch_size": 4, **options})


def by_id(responses: Iterable[ChatResponse]) -> dict[str, ChatResponse]:
    found = list(responses)
    keyed = {response.request_id: response for response in found}
    assert len(keyed) == len(found)
    return keyed


class Parrot(torch.nn.Module):
    """A causal language model that says `script` after the prompt of `ask("?")`, token by token."""

    def __init__(self, script: Sequence[int], prompt_tokens: int, vocabulary: int) -> None:
        super().__init__()
        from transformers import Qwen3Config

        self.script, self.prompt_tokens, self.vocabulary = [*script], prompt_tokens, vocabulary
        self.config = Qwen3Config(num_hidden_layers=1, max_position_embeddings=200)
        self.generation_config = SimpleNamespace(eos_token_id=None)
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(self, input_ids: Any, position_ids: Any, past_key_values: Any, **_: Any) -> Any:
        states = torch.zeros(len(input_ids), 1, input_ids.shape[1], 1)
        past_key_values.update(states, states, 0)
        # Behind the script and in the prompt it says anything.
        said = (position_ids[0] + 1 - self.prompt_tokens).clamp(0, len(self.script) - 1)
        logits = torch.nn.functional.one_hot(torch.tensor(self.script)[said], self.vocabulary) * 99.0
        return SimpleNamespace(logits=logits.expand(len(input_ids), -1, -1))


def parrot(text: str, tokenizer: Any, ends: bool = True, **settings: Any) -> ChatResponse:
    script = tokenizer(text, add_special_tokens=False)["input_ids"]
    script += [tokenizer.eos_token_id] if ends else []
    turn = [{"role": "user", "content": "?"}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    model = Parrot(script, len(prompt), len(tokenizer))
    [response] = TransformersChat(model, tokenizer).generate([ask(**{"max_tokens": len(script), **settings})])
    return response


def special_tags() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    return tokenizer


TOKENIZERS = {"bytes": tiny_tokenizer, "single": lambda: tiny_tokenizer(tags=True), "special": special_tags}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("text", "reasoning", "content", "thought_chars", "thought_tags"),
    [
        ("<think>\nwhy\n</think>\n\nso", "why", "so", len("\nwhy\n"), 2),
        ("<think></think>so", "", "so", 0, 2),
        ("just so", "", "just so", 0, 0),
        ("Sure. <think>a</think>", "", "Sure. <think>a</think>", 0, 0),
        ("<think>a</think>b</think>so", "a</think>b", "so", 2, 3),
        ("<think>é é", "é é", "", len("é é".encode()), 1),
        ("late</think>so", "late", "so", 4, 1),
        ("", "", "", 0, 0),
    ],
)
def test_turns_are_split_and_counted(
    kind: str, text: str, reasoning: str, content: str, thought_chars: int, thought_tags: int
) -> None:
    """Reasoning tokens are those of the think block with its tags, whether a tag is one token or one per byte."""
    tokenizer = TOKENIZERS[kind]()
    tag_tokens = 1 if kind != "bytes" else None
    response = parrot(text, tokenizer)
    opening = text.count("<think>") if thought_tags else 0
    tags = thought_tags if tag_tokens else 7 * opening + 8 * (thought_tags - opening)
    assert (response.reasoning, response.content) == (reasoning, content)
    assert response.finish_reason == "stop"
    assert response.usage.prompt_tokens == PROMPT_TOKENS
    assert response.usage.completion_tokens == len(tokenizer(text)["input_ids"]) + 1
    assert response.usage.reasoning_tokens == thought_chars + tags


def test_a_block_that_is_cut_off_is_all_reasoning() -> None:
    response = parrot("<think>why <answer>x</answer>", tiny_tokenizer(), ends=False)
    assert (response.reasoning, response.content) == ("why <answer>x</answer>", "")
    assert response.finish_reason == "length"
    assert response.usage.reasoning_tokens == response.usage.completion_tokens == 29


@pytest.mark.parametrize("opening", ["<think>\n", "<think></think><think>\n"])
def test_a_block_that_the_template_opens(opening: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE.replace("assistant\n{% endif", "assistant\n" + opening + "{% endif")
    assert opening in tokenizer.chat_template
    closed = parrot("why</think>so", tokenizer)
    assert (closed.reasoning, closed.content, closed.usage.reasoning_tokens) == ("why", "so", 11)
    cut = parrot("why not", tokenizer, ends=False)
    assert (cut.reasoning, cut.content, cut.usage.reasoning_tokens) == ("why not", "", 7)


def test_a_block_that_the_template_opens_and_closes() -> None:
    tokenizer = tiny_tokenizer()
    closing = "assistant\n<think>\n\n</think>\n\n{% endif"
    tokenizer.chat_template = TEMPLATE.replace("assistant\n{% endif", closing)
    response = parrot("so", tokenizer)
    assert (response.reasoning, response.content, response.usage.reasoning_tokens) == ("", "so", 0)


def test_draws_differ_by_seed_and_sample_only() -> None:
    hot: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    requests = [ask(id_="same", **hot), ask(id_="twin", **hot), ask(id_="draw", sample=1, **hot)]
    found = by_id(chat().generate([*requests, ask(id_="seed", **hot, seed=1)]))
    texts = {id_: response.content for id_, response in found.items()}
    assert texts["same"] == texts["twin"]
    assert len(set(texts.values())) == 3


def test_what_bounds_a_completion() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(len(tokenizer), context=PROMPT_TOKENS + 10)
    model.generation_config.eos_token_id = tokenizer.eos_token_id = None

    def used(text: str = "?", max_tokens: int | None = None, **options: Any) -> tuple[str, int, int]:
        [response] = TransformersChat(model, tokenizer, **options).generate([ask(text, max_tokens=max_tokens)])
        return response.finish_reason, response.usage.prompt_tokens, response.usage.completion_tokens

    assert used(max_tokens=4) == ("length", PROMPT_TOKENS, 4)
    assert used(max_tokens=4, max_new_tokens=3) == ("length", PROMPT_TOKENS, 3)
    assert used(max_tokens=3, max_new_tokens=4) == ("length", PROMPT_TOKENS, 3)
    assert used(max_length=PROMPT_TOKENS + 6) == ("length", PROMPT_TOKENS, 6)
    assert used(max_tokens=4, max_length=PROMPT_TOKENS + 6) == ("length", PROMPT_TOKENS, 4)
    assert used(max_length=PROMPT_TOKENS) == ("context_length", PROMPT_TOKENS, 0)
    assert used(max_length=PROMPT_TOKENS + 99) == ("length", PROMPT_TOKENS, 10)
    assert used() == ("length", PROMPT_TOKENS, 10)
    assert used(max_tokens=99) == ("length", PROMPT_TOKENS, 10)
    # A prompt that fills the context is answered, so that the run goes on, but not by the model.
    assert used("?" * 10) == ("length", PROMPT_TOKENS + 9, 1)
    assert used("?" * 11) == ("context_length", PROMPT_TOKENS + 10, 0)
    assert used("?" * 99) == ("context_length", PROMPT_TOKENS + 98, 0)


def test_what_is_drawn_comes_with_its_tokens() -> None:
    tokenizer, chat_ = tiny_tokenizer(), chat()
    requests = many()
    drawn = {item.response.request_id: item for item in chat_.draw(requests)}
    assert {key: item.response for key, item in drawn.items()} == by_id(chat().generate(requests))
    stop = tokenizer.eos_token_id
    for request in requests:
        response, prompt, completion = drawn[request.id]
        turn = [{"role": "user", "content": request.messages[0].content}]
        rendered = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        assert list(prompt) == rendered
        assert len(completion) == response.usage.completion_tokens
        assert (completion[-1] == stop) == (response.finish_reason == "stop")
        # The text alone would not do: bytes that are no UTF-8 are drawn, and can not be read back from it.
        assert tokenizer.decode([token for token in completion if token != stop]).strip() == response.content


def test_every_stop_token_ends_a_turn() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(len(tokenizer))
    [free] = TransformersChat(model, tokenizer).generate([ask(temperature=0.0)])
    assert free.usage.completion_tokens > 4
    turn = [{"role": "user", "content": "?"}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=4, do_sample=False)[0, -4:].tolist()
    for stops in (ids[2], [7, ids[2]]):
        model.generation_config.eos_token_id = stops
        [response] = TransformersChat(model, tokenizer).generate([ask(temperature=0.0)])
        assert (response.finish_reason, response.usage.completion_tokens) == ("stop", ids.index(ids[2]) + 1)
        assert response.content == tokenizer.decode(ids[: ids.index(ids[2])]).strip()


def test_requests_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def endless() -> Any:
        for index in count():
            taken.append(index)
            yield ask("x" * (index % 5), str(index))

    found = list(islice(chat(batch_size=2).generate(endless()), 5))
    assert len({response.request_id for response in found}) == 5
    assert len(taken) < 100
    assert list(chat().generate([])) == []


def test_training_goes_on_where_it_was() -> None:
    chat_ = chat()
    model = chat_._model
    model.train()
    model.model.layers[0].eval()
    model.gradient_checkpointing_enable()
    before = [module.training for module in model.modules()]
    responses = chat_.generate(many())
    first = next(responses)
    assert not model.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    rest = list(responses)
    assert [module.training for module in model.modules()] == before
    assert by_id([first, *rest]) == by_id(chat().generate(many()))

    left: Any = chat_.generate(many())
    next(left)
    left.close()
    assert [module.training for module in model.modules()] == before
    ids = torch.tensor([[5, 6, 7]])
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_answers_that_are_drawn_at_the_same_time_do_not_disturb_each_other() -> None:
    chat_ = chat(batch_size=2)
    chat_._model.train()
    one, two = chat_.generate(many(4)), chat_.generate(many())
    next(one)
    first = next(two)
    list(one)

    assert not chat_._model.training
    assert by_id([first, *two]) == by_id(chat().generate(many()))
    assert chat_._model.training


def test_a_model_with_adapters() -> None:
    from peft import LoraConfig, get_peft_model

    plain = by_id(chat().generate(many(4)))
    tokenizer = tiny_tokenizer()
    model: Any = get_peft_model(tiny_model(len(tokenizer)), LoraConfig(target_modules=["q_proj"], r=2)).double()
    adapted = TransformersChat(model, tokenizer, batch_size=4)
    assert by_id(adapted.generate(many(4))) == plain  # A fresh adapter changes nothing.
    name = adapted.identity["model"]
    torch.nn.init.normal_(model.base_model.model.model.layers[0].self_attn.q_proj.lora_B["default"].weight)
    assert by_id(adapted.generate(many(4))) != plain
    assert adapted.identity["model"] != name


def test_identity_names_all_that_decides_an_answer(tmp_path: Path) -> None:
    folder, moved, other = (tiny_folder(tmp_path / name, seed=seed) for name, seed in [("a", 0), ("b", 0), ("c", 1)])
    load = TransformersChat.from_pretrained
    identity = load(folder, batch_size=2).identity
    assert load(moved, batch_size=3, attn_implementation="eager").identity == identity
    assert identity["engine"].startswith("transformers ")
    assert set(map(type, identity.values())) == {str}
    changed = [load(other), load(folder, dtype="bfloat16"), load(folder, max_new_tokens=5)]
    template = (folder / "chat_template.jinja").read_text()
    (moved / "chat_template.jinja").write_text(template + " ")
    changed.append(load(moved))
    assert len({tuple(chat_.identity.items()) for chat_ in changed} | {tuple(identity.items())}) == 5


def test_identity_of_a_model_in_memory() -> None:
    chat_, named = chat(), chat(identity="student at step 7", max_length=99)
    before = chat_.identity
    assert chat_.identity == before
    with torch.no_grad():
        chat_._model.lm_head.weight[0, 0] += 1
    assert chat_.identity != before
    assert "max_length" not in before
    assert (named.identity["model"], named.identity["max_length"]) == ("student at step 7", "99")
    with torch.autocast("cpu", torch.bfloat16):
        assert (before["dtype"], chat_.identity["dtype"]) == ("float64", "float64 in bfloat16")


@pytest.mark.parametrize("choice", ["own", "verbatim"])
def test_prompts_are_rendered_with_the_chosen_template(tmp_path: Path, choice: Any) -> None:
    folder = tiny_folder(tmp_path / "polite")
    polite = "Be kind." + (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(polite)
    chat_ = TransformersChat.from_pretrained(folder, chat_template=choice)
    (response,) = chat_.generate([ask()])
    extra = {"own": len("Be kind."), "verbatim": 0}[choice]
    assert response.usage.prompt_tokens == PROMPT_TOKENS + extra


def test_a_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "mute")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match=r"mute: the tokenizer has no chat template"):
        TransformersChat.from_pretrained(folder)


def test_a_template_that_refuses_the_messages() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    refused = ChatRequest("0", (Message("system", "Think."), Message("user", "?")))
    with pytest.raises(InputError, match="the chat template refuses the messages: no system turn"):
        list(TransformersChat(tiny_model(len(tokenizer)), tokenizer).generate([refused]))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"max_tokens": 0},
    ],
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"sampling.{next(iter(settings))}: expected"):
        list(chat().generate([ask(**settings)]))
    for option in ("batch_size", "max_new_tokens", "max_length"):
        with pytest.raises(InputError, match=f"{option}: expected at least 1"):
            chat(**{option: 0})


def test_a_completion_needs_some_bound() -> None:
    chat_ = chat()
    object.__setattr__(chat_._model.config, "max_position_embeddings", None)  # as where there is no such field
    with pytest.raises(InputError, match="states no context length; set max_new_tokens"):
        list(chat_.generate([ask(max_tokens=None)]))


def test_an_attention_that_takes_no_mask_is_put_back_after_decoding() -> None:
    chat_ = chat()
    model = chat_._model
    model.set_attn_implementation("flex_attention")
    responses: Any = chat_.generate(many(2))
    next(responses)
    assert model.config._attn_implementation == "sdpa"
    responses.close()
    assert model.config._attn_implementation == "flex_attention"
