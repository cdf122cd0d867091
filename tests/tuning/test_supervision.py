from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from introspect.chat.protocol import Message, join_reasoning, tag_answer
from introspect.chat.templates import Conversation, end_of_turn_id, load_tokenizer, training_template, with_template
from introspect.core.errors import InputError
from introspect.tuning.supervision import Supervised, supervise, supervise_all
from tests.tuning.tiny import tiny_tokenizer

ASKED = [Message("user", "Who?")]
TARGET = join_reasoning("We look.", tag_answer("Ada"))

HEADER = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
FOOTER = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
STRIPS_THINKING = HEADER + "{{ m.content.split('</think>')[-1] }}" + FOOTER
OPENS_THINKING = HEADER + "{{ m.content }}" + FOOTER.replace("assistant\n", "assistant\n<think>\n")
EMPTY_THINKING = HEADER + "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}" + FOOTER
NO_END = HEADER + "{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
# A system line that only a finished conversation gets.
OTHER_PROMPT = "{% if not add_generation_prompt %}Date{% endif %}" + HEADER + "{{ m.content }}" + FOOTER

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def smollm2():
    folder = os.environ.get("INTROSPECT_SMOLLM2")
    if not folder:
        pytest.skip("needs SmolLM2-135M-Instruct: set INTROSPECT_SMOLLM2 to its folder")
    return load_tokenizer(folder, chat_template="verbatim")


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "golden" / "chat_render.json").read_text(encoding="utf-8"))


def test_mask_covers_exactly_the_assistant_turn():
    tokenizer = tiny_tokenizer()

    item = supervise(tokenizer, ASKED, TARGET)

    assert tokenizer.decode(item.input_ids[: item.prompt_length]) == (
        "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(item.input_ids[item.prompt_length :]) == TARGET + "<|im_end|>\n"


@settings(max_examples=50)
@given(question=texts, reasoning=texts, answer=texts)
def test_any_text_is_spelt_by_the_supervised_tokens(question, reasoning, answer):
    tokenizer = tiny_tokenizer()
    target = join_reasoning(reasoning, tag_answer(answer))

    item = supervise(tokenizer, [Message("user", question)], target)

    assert tokenizer.decode(item.input_ids[item.prompt_length :]) == target + "<|im_end|>\n"


def test_prompt_tokens_are_those_of_a_generation():
    tokenizer = tiny_tokenizer()
    asked = [{"role": "user", "content": "Who?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)

    item = supervise(tokenizer, ASKED, TARGET)

    assert list(item.input_ids[: item.prompt_length]) == prompt


def test_many_conversations_keep_their_order_across_chunks():
    tokenizer = tiny_tokenizer()
    conversations = [Conversation(str(i), [Message("user", f"Who is {i}?")], f"No {i}") for i in range(600)]

    items = list(supervise_all(tokenizer, conversations))

    assert items[0] == supervise(tokenizer, conversations[0].messages, "No 0")
    assert [tokenizer.decode(item.input_ids[item.prompt_length :]) for item in items] == [
        f"No {i}<|im_end|>\n" for i in range(600)
    ]


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (STRIPS_THINKING, "changes the text of the assistant's turn"),
        (EMPTY_THINKING, "changes the text of the assistant's turn"),
        (OTHER_PROMPT, "another prompt"),
    ],
)
def test_template_that_changes_the_trace_is_refused_with_the_remedy(template, complaint):
    with pytest.raises(InputError, match=rf"^conversation: .*{complaint}.*chat_template=verbatim$"):
        supervise(tiny_tokenizer(template=template), ASKED, TARGET)


def test_target_that_stands_in_the_question_too_is_not_mistaken_for_the_answer():
    with pytest.raises(InputError, match="changes the text"):
        supervise(tiny_tokenizer(template=STRIPS_THINKING), [Message("user", TARGET)], TARGET)


def test_turn_without_end_token_is_refused():
    with pytest.raises(InputError, match="no end-of-turn token is supervised"):
        supervise(tiny_tokenizer(template=NO_END), ASKED, TARGET)


def test_think_tag_that_the_template_opens_is_read_and_not_learnt():
    tokenizer = tiny_tokenizer(template=OPENS_THINKING)

    item = supervise(tokenizer, ASKED, TARGET)

    assert tokenizer.decode(item.input_ids[: item.prompt_length]).endswith("<|im_start|>assistant\n<think>\n")
    assert tokenizer.decode(item.input_ids[item.prompt_length :]) == TARGET.removeprefix("<think>\n") + "<|im_end|>\n"


def test_prompt_and_target_that_would_merge_are_tokenised_apart():
    tokenizer = tiny_tokenizer()
    newlines = tokenizer.tokenize("\n")[0] * 2
    tokenizer.add_tokens([tokenizer.convert_tokens_to_string([newlines])])  # two line breaks are one token
    assert len(tokenizer("\n\n", add_special_tokens=False)["input_ids"]) == 1

    item = supervise(tokenizer, ASKED, "\nNobody.")

    assert tokenizer.decode(item.input_ids[item.prompt_length :]) == "\nNobody.<|im_end|>\n"
    assert item.prompt_length == supervise(tokenizer, ASKED, "Nobody.").prompt_length


def test_tokens_that_do_not_spell_the_target_are_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<|im_start|>", "<|im_end|>", "user", "assistant", "Who?", "Ada"]
    core = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = training_template(tokenizer)

    with pytest.raises(InputError, match=r"do not spell the target: '<unk>.* stands for 'Bob"):
        supervise(tokenizer, ASKED, "Bob")


def test_tokenizer_that_normalises_unicode_is_accepted():
    from tokenizers import normalizers

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()

    item = supervise(tokenizer, ASKED, "cafe\u0301")

    assert tokenizer.decode(item.input_ids[item.prompt_length :]) == "caf\u00e9<|im_end|>\n"


def test_empty_target_is_refused():
    with pytest.raises(InputError, match=r"^conversation: the target is empty$"):
        supervise(tiny_tokenizer(), ASKED, "")


def test_template_that_can_not_render_gives_one_line():
    template = "{{ raise_exception('only two turns\nplease') }}"
    with pytest.raises(InputError, match=r"refuses the messages: only two turns$"):
        supervise(tiny_tokenizer(template=template), ASKED, TARGET)


def test_end_of_turn_is_what_the_template_writes_not_eos():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"

    assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_training_template_needs_a_chatml_tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    with pytest.raises(InputError, match=r"no ChatML tokenizer: <\|im_start\|> is not in its vocabulary"):
        training_template(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, []))))


@pytest.mark.parametrize(
    ("own", "choice", "expected"),
    [
        (STRIPS_THINKING, "auto", "verbatim"),
        (STRIPS_THINKING, "own", "own"),
        (OPENS_THINKING, "auto", "own"),
        (OPENS_THINKING, "verbatim", "verbatim"),
    ],
)
def test_load_tokenizer_chooses_the_template(tmp_path, own, choice, expected):
    tiny_tokenizer(template=own).save_pretrained(tmp_path)

    tokenizer = load_tokenizer(tmp_path, chat_template=choice)

    assert tokenizer.chat_template == {"own": own, "verbatim": training_template(tokenizer)}[expected]


def test_load_tokenizer_names_the_folder_without_chat_template(tmp_path):
    tiny_tokenizer(template=None).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"^{tmp_path}: the tokenizer has no chat template"):
        load_tokenizer(tmp_path)


def test_load_tokenizer_says_in_one_line_what_is_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    for source, complaint in {
        str(tmp_path / "absent"): "no such model folder",
        str(tmp_path / "empty"): "no tokenizer could be loaded from this folder",
        "nobody/nothing": "no tokenizer could be loaded from this hub id",
    }.items():
        with pytest.raises(InputError, match=rf"^{source}: {complaint}[^\n]*$"):
            load_tokenizer(source)


def test_an_unknown_choice_of_template_is_refused():
    with pytest.raises(InputError, match="chat_template is 'mine', expected one of auto, own, verbatim"):
        with_template(tiny_tokenizer(), "mine")


def test_tokens_and_mask_equal_the_reference(smollm2, golden):
    cases = [case for case in golden if case["kind"] == "hotpotqa_sft"]
    assert len(cases) == 3
    for case in cases:
        messages = [Message(**message) for message in case["output"]["messages"]]
        for mode in case["output"]["modes"].values():
            item = supervise(smollm2, messages, mode["completion"].removesuffix("<|im_end|>\n"))

            assert item == Supervised(tuple(mode["smollm2_input_ids"]), mode["smollm2_n_prompt_tokens"])
            assert len(item.input_ids) - item.prompt_length == mode["smollm2_n_completion_tokens"]


def test_training_template_renders_as_the_reference(golden):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = training_template(tokenizer)

    def render(messages, **options):
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    for case in golden:
        output = case["output"]
        if case["kind"] == "messages":
            messages = case["inputs"]["messages"]
            assert render(messages, add_generation_prompt=True) == output["with_generation_prompt"]
            assert render(messages) == output["without_generation_prompt"]
        elif case["kind"] == "hotpotqa_sft":
            assert render(output["messages"]) == output["variants"]["prompt_no_generation"]
            without_thinking = render(output["messages"], add_generation_prompt=True, enable_thinking=False)
            assert without_thinking == output["variants"]["prompt_enable_thinking_false"]
        elif case["kind"].endswith("_prompt"):
            assert render(output["messages"], add_generation_prompt=True) == output["prompt"]
