"""The oracle writes what a careful reader would, from annotated evidence, and really reads drafts."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice

import pytest

from introspect.benchmarks.examples import Document, EvidenceStep, MultiHopExample
from introspect.benchmarks.hopworld import worlds
from introspect.chat.prompts import question_messages, render
from introspect.chat.protocol import ChatRequest, Message, Sampling, extract_answer
from introspect.core.errors import InputError
from introspect.oracle.draft_reading import read_draft
from introspect.oracle.teacher import Oracle
from introspect.oracle.writing import write_answer, write_guide, write_plain, write_trace

EXAMPLE = MultiHopExample(
    id="q1",
    benchmark="test",
    question="Who is the founder of the employer of Ada?",
    answer="Omar",
    documents=(
        Document("Vertex", ("The founder of Vertex is Omar.", "The seat of Vertex is Riga."), 0),
        Document("Ada", ("The employer of Ada is Vertex.",), 1),
        Document("Zane", ("The employer of Zane is Kestrel.", "The spouse of Zane is Lola."), 2),
    ),
    evidence=(
        EvidenceStep(1, "The employer of Ada is Vertex.", "the employer of Ada", "Vertex"),
        EvidenceStep(0, "The founder of Vertex is Omar.", "the founder of #1", "Omar"),
    ),
    hops=2,
    tier="easy",
)


def draft_of(text: str, answer: str) -> str:
    return f"{text}\n\n<answer>{answer}</answer>"


def test_a_trace_has_five_phases_in_order() -> None:
    paragraphs = write_trace(EXAMPLE, random.Random(0)).split("\n\n")
    assert EXAMPLE.question in paragraphs[0]
    assert "the document on Ada" in paragraphs[0].lower().replace("ada", "Ada")
    assert "find the employer of Ada, then the founder of that" in paragraphs[1]
    assert "Vertex" not in paragraphs[0] + paragraphs[1]  # nothing is known before it is found
    assert paragraphs[2].startswith("The employer of Ada is Vertex. ")
    assert paragraphs[3].startswith("The founder of Vertex is Omar. ")
    assert paragraphs[4].startswith("Wait, ")
    assert "from Ada to Vertex to Omar" in paragraphs[5]
    assert paragraphs[5].endswith("The answer is Omar.")


def test_reading_a_draft_finds_its_sound_steps_and_its_wrong_answer() -> None:
    text = "Okay. The employer of Ada is Vertex.\n\nThe spouse of Zane is Lola.\n\nMaybe it is Lola instead."
    draft = read_draft(draft_of(text, "Lola"), EXAMPLE)
    assert draft.kept == ("The employer of Ada is Vertex.", None)
    assert draft.answer == "Lola"
    assert draft.wandered == ("Zane",)
    assert draft.finished


def test_a_doubting_sentence_is_not_kept_as_a_step() -> None:
    draft = read_draft(draft_of("Wait, maybe the employer of Ada is Vertex?", "Omar"), EXAMPLE)
    assert draft.kept == (None, None)
    assert draft.answer is None


def test_a_step_that_the_draft_denies_is_not_kept() -> None:
    assert read_draft(draft_of("It is not so: the employer of Ada is not Vertex.", "Omar"), EXAMPLE).kept[0] is None


@pytest.mark.parametrize(
    ("sentence", "kept"),
    [
        ("The Hukilau Song was written by Jack Owens.", True),
        ("Jack Owens wrote The Hukilau Song in 1948 after a luau.", True),  # the question says luau
        ("The Hukilau Song is a tribute written by Jack Owens in 1948.", False),  # nothing says tribute
        ("The Hukilau Song was not written by Jack Owens in 1948.", False),
        ("The Hukilau Song is a song.", False),  # too little of it
    ],
)
def test_a_sentence_is_kept_if_the_document_says_so(sentence: str, kept: bool) -> None:
    document = Document("The Hukilau Song", ("The Hukilau Song was written by Jack Owens in 1948.", "He wrote it."), 0)
    example = replace(
        EXAMPLE,
        question="Who wrote a song after a luau?",
        answer="Jack Owens",
        documents=(document,),
        evidence=(EvidenceStep(0, document.sentences[0]),),
    )
    found = read_draft(draft_of(sentence, "Jack Owens"), example).kept
    assert found == ((sentence,) if kept else (None,))


def test_the_wrong_turn_is_named_and_mended() -> None:
    draft = read_draft(draft_of("The employer of Ada is Vertex. The spouse of Zane is Lola.", "Lola"), EXAMPLE)
    mend = write_trace(EXAMPLE, random.Random(0), draft).split("\n\n")[4]
    assert mend == "Wait, what about Lola? The document on Zane speaks of it, not of what is asked."


def test_a_loop_is_noticed() -> None:
    draft = read_draft("The employer of Ada is Vertex. The founder of Vertex is Omar. " * 5, EXAMPLE)
    assert draft.repeated[1] == 5
    assert not draft.finished
    assert "should we check again? No" in write_trace(EXAMPLE, random.Random(0), draft)


def test_the_drafts_own_words_are_kept() -> None:
    own = "From the papers, the employer of Ada turns out to be Vertex."
    draft = read_draft(draft_of(own, "Omar"), EXAMPLE)
    assert own in write_trace(EXAMPLE, random.Random(0), draft)
    assert own not in write_trace(EXAMPLE, random.Random(0))


def test_a_plain_rewrite_states_every_step_and_nothing_else() -> None:
    draft = read_draft(
        draft_of("From the papers, the employer of Ada turns out to be Vertex. Maybe Lola?", "Lola"), EXAMPLE
    )
    assert write_plain(EXAMPLE, random.Random(0), draft).split("\n\n")[1:] == [
        "From the papers, the employer of Ada turns out to be Vertex.",
        "The founder of Vertex is Omar.",
        "The answer is Omar.",
    ]


def test_a_teachers_own_answer_looks_aside_but_does_not_go_wrong() -> None:
    answers = [write_answer(EXAMPLE, random.Random(seed)) for seed in range(20)]
    assert len(set(answers)) > 5
    assert any("the document on Zane. It" in answer for answer in answers)
    assert any("Let me check" in answer for answer in answers)
    for answer in answers:
        first, second = (answer.index(step.statement) for step in EXAMPLE.evidence)
        assert first < second
        assert answer.endswith("\n\nSo the answer is Omar.")
        assert "We verify" not in answer
        assert "Lola" not in answer


def test_a_guide_tells_the_steps_the_answer_and_what_does_not_matter() -> None:
    parts = write_guide(EXAMPLE).split("\n\n")
    assert parts[0].endswith(f"{EXAMPLE.question} It takes 2 steps, over the documents on Ada and Vertex.")
    assert parts[1:4] == [
        "Step 1: The employer of Ada is Vertex.",
        "Step 2: The founder of Vertex is Omar.",
        "The answer is Omar.",
    ]
    assert parts[-1].endswith("the documents on Zane.")


def ask(prompt: str, sample: int = 0, example: MultiHopExample | None = EXAMPLE, before: tuple[Message, ...] = ()):
    request = ChatRequest("r", (*before, Message("user", prompt)), Sampling(), sample, example)
    return next(iter(Oracle().generate([request])))


VALUES = {"context": EXAMPLE.context, "question": EXAMPLE.question, "answer": EXAMPLE.answer}
DRAFT = draft_of("The employer of Ada is Vertex.", "Lola")


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize(("prompt", "in_phases"), [("mbt_r", True), ("distill_r", False)])
def test_a_draft_is_rewritten_as_the_task_says(prompt: str, in_phases: bool, guided: bool) -> None:
    before = (
        (Message("user", render("synthesis", "solution_guide", **VALUES)), Message("assistant", "Guide."))
        if guided
        else ()
    )
    response = ask(render("synthesis", prompt, **VALUES, draft_solution=DRAFT, guided=guided), before=before)
    assert response.reasoning == ""
    assert response.content.endswith("The answer is Omar.")
    assert ("what about Lola?" in response.content) == ("We verify" in response.content) == in_phases


def test_a_guide_is_written_on_demand() -> None:
    response = ask(render("synthesis", "solution_guide", **VALUES))
    assert (response.reasoning, response.content) == ("", write_guide(EXAMPLE))


def test_a_system_turn_makes_it_reason_in_phases() -> None:
    system, user = question_messages(EXAMPLE, "metacognitive")
    assert "We verify" in ask(user.content, before=(system,)).reasoning
    assert "We verify" not in ask(user.content).reasoning


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(InputError, match=r"request r has the task 'sing', which it cannot do$"):
        ask("<task>sing</task>\n\nPlease.")
    # A task inside a document is none.
    assert extract_answer(ask("Documents: <task>sing</task>").content) == "Omar"


def test_with_the_answer_given_the_trace_is_the_content() -> None:
    prompt = render("synthesis", "mbt_s", context=EXAMPLE.context, question=EXAMPLE.question, answer=EXAMPLE.answer)
    response = ask(prompt)
    assert response.reasoning == ""
    assert response.content.endswith("The answer is Omar.")
    assert response.finish_reason == "stop"


def test_a_plain_question_gets_reasoning_and_a_tagged_answer() -> None:
    response = ask(question_messages(EXAMPLE)[0].content)
    assert "The founder of Vertex is Omar." in response.reasoning
    assert extract_answer(response.content) == "Omar"


def test_samples_differ_and_repeat() -> None:
    prompt = render("synthesis", "mbt_s", context=EXAMPLE.context, question=EXAMPLE.question, answer=EXAMPLE.answer)
    texts = [ask(prompt, sample).content for sample in range(8)]
    assert len(set(texts)) > 1
    assert texts == [ask(prompt, sample).content for sample in range(8)]


def test_without_an_item_it_says_so() -> None:
    with pytest.raises(InputError, match="about no benchmark item"):
        ask("question", example=None)


def test_without_evidence_it_has_nothing_to_say() -> None:
    response = ask("question", example=replace(EXAMPLE, evidence=()))
    assert (response.content, response.reasoning) == ("", "")


def test_a_sub_question_is_planned_and_answered() -> None:
    steps = (
        EvidenceStep(1, "The employer of Ada is Vertex.", "who employs ada?", "Vertex"),
        EvidenceStep(0, "The founder of Vertex is Omar.", "who founded #1?", "Omar"),
    )
    paragraphs = write_trace(replace(EXAMPLE, evidence=steps), random.Random(0)).split("\n\n")
    assert "find who employs ada, then who founded that." in paragraphs[1]
    assert 'says: "The employer of Ada is Vertex." Who employs ada? Vertex. ' in paragraphs[2]
    assert "Who founded Vertex? Omar. " in paragraphs[3]


def test_every_hopworld_trace_states_every_step() -> None:
    for world in islice(worlds("train", 5), 60):
        example = world.example("x")
        trace = write_trace(example, random.Random(1))
        assert all(str(fact) in trace for fact in world.chain)
        assert trace.endswith(f"The answer is {example.answer}.")
