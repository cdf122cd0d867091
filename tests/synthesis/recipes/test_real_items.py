"""The oracle teaches every recipe on the real items of all three benchmarks, and the gate lets its traces pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from introspect.benchmarks.hotpotqa import HotpotQA
from introspect.benchmarks.musique import MuSiQue
from introspect.benchmarks.twowiki import TwoWiki
from introspect.chat.protocol import ChatModel, ChatRequest, ChatResponse, tag_answer
from introspect.chat.usage import Usage
from introspect.oracle.teacher import Oracle
from introspect.synthesis.recipes import MBTR, MBTS, DirectR, DistillR, TeacherDistill
from introspect.synthesis.recipes.base import Models

BENCHMARKS = {
    "hotpotqa": (HotpotQA, "hotpot_train_v1.1.sample100.json"),
    "musique": (MuSiQue, "musique_ans_v1.0_train.sample100.jsonl"),
    "2wikimultihopqa": (TwoWiki, "train.sample200.json"),
}


class Lost(ChatModel):
    """A student that reads the first document and answers wrongly."""

    identity = {"model": "lost"}  # noqa: RUF012

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse]:
        for request in requests:
            first = request.messages[-1].content.split("Document [")[1].partition("\n")[0]
            yield ChatResponse(request.id, f"Hmm. {first}", tag_answer("nobody"), "stop", Usage(1, 1, 0))


@pytest.mark.parametrize("recipe", [MBTS(), MBTR(), DirectR(), DistillR(), TeacherDistill()], ids=lambda r: r.name)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_trace_passes_the_gate(shared: Path, name: str, recipe: Any) -> None:
    kind, file = BENCHMARKS[name]
    examples = kind(files={"train": shared / "data" / name / file}, held_out=0).load("train")
    made = recipe.synthesize(examples, Models(Lost(), Oracle()))
    assert made.rejections == {}
    assert len(made.traces) == len(examples) >= 100
    in_phases = sum("We verify" in trace.target for trace in made.traces)
    assert in_phases == (0 if recipe.name in ("distill_r", "teacher_distill") else len(examples))
    by_id = {example.id: example for example in examples}
    for trace in made.traces:
        assert trace.target.endswith(tag_answer(by_id[trace.example_id].answer))
        if recipe.name == "distill_r":
            assert "nobody" not in trace.target
        if recipe.name == "mbt_r":
            assert "what about nobody?" in trace.target
