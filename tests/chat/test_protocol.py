from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from introspect.chat.protocol import (
    THINK_CLOSE,
    THINK_OPEN,
    ChatResponse,
    SplitText,
    extract_answer,
    join_reasoning,
    split_reasoning,
    tag_answer,
)
from introspect.chat.usage import Usage

# Text in which tags, whole and broken, are likely.
pieces = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "<", ">", "think", "\n", "\n\n", " ", "a", "é"]
)
texts = st.lists(pieces, max_size=12).map("".join)


@pytest.mark.parametrize(
    ("text", "reasoning", "content", "closed"),
    [
        ("", "", "", True),
        ("plain", "", "plain", True),
        ("<think>\nr\n</think>\n\nc", "r", "c", True),
        ("  \n<think>r</think>c  ", "r", "c", True),
        ("<think></think>c", "", "c", True),
        ("<think>r</think>", "r", "", True),
        # Cut off inside the block: nothing in it is an answer.
        ("<think>\nr <answer>x</answer>", "r <answer>x</answer>", "", False),
        ("<think>", "", "", False),
        # The template opened the block: the text begins inside it.
        ("r</think>c", "r", "c", True),
        # A reasoning that mentions the tags ends with the last closing one.
        ("<think>a <think> b</think> c</think>d", "a <think> b</think> c", "d", True),
        # Text before the block is visible text: nothing is private.
        ("Sure. <think>r</think>c", "", "Sure. <think>r</think>c", True),
    ],
)
def test_split(text: str, reasoning: str, content: str, closed: bool) -> None:
    assert split_reasoning(text) == SplitText(reasoning, content, closed)


@given(texts, texts)
def test_join_then_split_gives_the_parts_back(reasoning: str, content: str) -> None:
    reasoning, content = reasoning.strip(), content.strip()
    # A content with a closing tag is ambiguous, as is a content with any tag and no reasoning before it.
    assume(THINK_CLOSE not in content and (reasoning or THINK_OPEN not in content))
    assert split_reasoning(join_reasoning(reasoning, content)) == SplitText(reasoning, content, True)


@given(texts)
def test_split_invents_nothing(text: str) -> None:
    split = split_reasoning(text)
    assert split.reasoning in text
    assert split.content in text
    assert split.reasoning == split.reasoning.strip()
    assert split.content == split.content.strip()
    assert split.closed or split.content == ""
    if THINK_OPEN not in split.content and THINK_CLOSE not in split.content:
        assert split_reasoning(split.content) == SplitText("", split.content, True)


@given(texts, texts)
def test_tagged_answer_is_extracted(before: str, answer: str) -> None:
    assume("<answer>" not in answer and "</answer>" not in answer)
    assert extract_answer(before + tag_answer(answer)) == answer.strip()


def test_join_matches_reference(shared: Path) -> None:
    cases = [case for case in _golden(shared, "chat_render.json") if case["kind"] == "format_response"]
    assert len(cases) >= 5
    for case in cases:
        message = case["inputs"]["choice"].get("message", {})
        joined = join_reasoning(message.get("reasoning_content") or "", message.get("content") or "")
        assert joined == case["output"], case["id"]


def test_extracted_answers_match_reference(shared: Path) -> None:
    cases = [case for case in _golden(shared, "qa_metrics.json") if case["fn"] == "extract_answer"]
    assert len(cases) >= 16
    for case in cases:
        assert extract_answer(case["inputs"]["s"]) == case["output"], case["id"]


def test_end_to_end_answers_match_reference_after_the_split(shared: Path) -> None:
    """The reference extracts from the whole response; ours from its content. They agree where the block is closed."""
    cases = [case for case in _golden(shared, "qa_metrics.json") if case["fn"] == "end_to_end"]
    assert cases
    for case in cases:
        for row, expected in zip(case["inputs"]["rows"], case["output"]["rows"], strict=True):
            split = split_reasoning(row["response"])
            if split.closed:
                assert extract_answer(split.content) == expected["predicted_answer"], case["id"]


def test_an_answer_inside_an_open_block_is_none() -> None:
    """The reference would extract "x" here: it looks for answers in the private reasoning too."""
    response = "<think>\nMaybe <answer>x</answer>, but let me check"
    assert extract_answer(response) == "x"
    assert extract_answer(split_reasoning(response).content) == ""


def test_usage_and_finish() -> None:
    response = ChatResponse("1", "r", "c", "length", Usage(prompt_tokens=5, completion_tokens=7, reasoning_tokens=4))
    assert response.usage.answer_tokens == 3
    assert not response.finished
    assert all(ChatResponse("1", "", "", reason, response.usage).finished for reason in ("stop", "tool_calls"))


def _golden(shared: Path, name: str) -> list[dict]:  # type: ignore[type-arg]
    cases: list[dict] = json.loads((shared / "golden" / name).read_text("utf-8"))  # type: ignore[type-arg]
    return cases
