from __future__ import annotations

import json

import pytest

from introspect.chat.prompts import check_style, question_messages
from introspect.chat.templates import with_template
from introspect.core.errors import InputError
from tests.chat.asking import question
from tests.tuning.tiny import tiny_tokenizer

PHASES = ("Understanding", "Planning", "Execution and monitoring", "Self-correction", "Verification")


def test_the_metacognitive_prompt_adds_a_system_turn_with_the_five_phases() -> None:
    system, user = question_messages(question(1), "metacognitive")
    assert (user,) == question_messages(question(1))  # the plain prompt
    assert user.role == "user"
    assert user.content.endswith("\n\nQuestion: What is number 1?")
    assert system.role == "system"
    places = [system.content.index(f"{number}. {phase}") for number, phase in enumerate(PHASES, start=1)]
    assert places == sorted(places)


def test_it_is_built_and_rendered_as_the_reference_does(shared) -> None:
    cases = json.loads((shared / "golden" / "chat_render.json").read_text(encoding="utf-8"))
    tokenizer = with_template(tiny_tokenizer(), "verbatim")
    seen = 0
    for case in cases:
        if case["kind"] != "hotpotqa_sft":
            continue
        variants = case["output"]["variants"]
        messages = variants["metacognitive_prompt_messages"]
        # The words of the system turn are ours; the turns are the reference's.
        assert [m.role for m in question_messages(question(1), "metacognitive")] == [m["role"] for m in messages]
        assert messages[1] == case["output"]["messages"][0]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert text == variants["metacognitive_prompt"]
        seen += 1
    assert seen == 3


def test_an_unknown_style_is_refused() -> None:
    assert check_style("plain", "x") == "plain"
    with pytest.raises(InputError, match=r"^recipe.prompt is 'socratic', expected plain or metacognitive$"):
        check_style("socratic", "recipe.prompt")
