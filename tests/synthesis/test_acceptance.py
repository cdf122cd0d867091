from __future__ import annotations

from dataclasses import replace

import pytest

from introspect.chat.protocol import ChatRequest, ChatResponse, split_reasoning
from introspect.chat.store import ResponseStore
from introspect.chat.usage import Usage
from introspect.core.errors import InputError
from introspect.evaluation.judging.running import Judging
from introspect.oracle.judge import OracleJudge
from introspect.oracle.teacher import Oracle
from introspect.synthesis.acceptance import Acceptance, find_fault, find_text_fault, parse_criterion
from introspect.synthesis.recipes import SelfDistill
from introspect.synthesis.recipes.base import Models
from tests.synthesis.recipes.scripted import EXAMPLES, Scripted, example_of, right, wrong

GOLD = ["New York City", "NYC"]
ANSWER = EXAMPLES[0].answer


@pytest.mark.parametrize(
    ("content", "reason", "fault"),
    [
        (f"We look.\n\nThe answer is {ANSWER}.", "stop", None),
        (f"The answer is {ANSWER.upper()}", "stop", None),
        (f"The answer is {ANSWER}.", "length", "truncated"),
        ("  \n ", "stop", "empty"),
        (f"<think>x</think> {ANSWER}", "stop", None),  # a leading think block is not part of the text
        (f"We know. <answer>{ANSWER}</answer>", "stop", "tags"),
        (f"The provided answer fits.\n\nThe answer is {ANSWER}.", "stop", "leak"),
        (f"The draft went wrong here.\n\nThe answer is {ANSWER}.", "stop", "leak"),
        (f"The answer we were given is {ANSWER}.", "stop", "leak"),
        (f"It is {ANSWER}.\n\nSo we are done.", "stop", "answer_missing"),
        (f"The answer is {ANSWER}ish.", "stop", "answer_missing"),
        (f"So the correct answer is {ANSWER}.", "stop", None),
        (f"The answer is {ANSWER}, as verified above.", "stop", None),
        (f"At first it seemed to be {ANSWER}. The answer is Paris.", "stop", "answer_missing"),
        (f"The answer is not {ANSWER}, it is Paris.", "stop", "answer_missing"),
        (f"The answer is not {ANSWER}.", "stop", "answer_missing"),
        (f"The ground truth is {ANSWER}.", "stop", "leak"),
        (f"The answer key says {ANSWER}.", "stop", "leak"),
        (f"The answer we already have is {ANSWER}.", "stop", "leak"),
        (f"As the prompt says, it is {ANSWER}.", "stop", "leak"),
        (f"The previous attempt said Paris. It is {ANSWER}.", "stop", "leak"),
        (f"The original solution claimed Paris. It is {ANSWER}.", "stop", "leak"),
        (f"As the solution guide says, it is {ANSWER}.", "stop", "leak"),
        (f"We follow what the guide lists. It is {ANSWER}.", "stop", "leak"),
        (f"The hint tells us that it is {ANSWER}.", "stop", "leak"),
    ],
)
def test_each_fault_of_a_response_is_named(content: str, reason: str, fault: str | None) -> None:
    parts = split_reasoning(content)
    response = ChatResponse("r", parts.reasoning, parts.content, reason, Usage(1, 1, 0))
    assert find_fault(response, EXAMPLES[0]) == fault


@pytest.mark.parametrize(
    ("answer", "content", "fault"),
    [
        ("no", "There is no doubt about it. The answer is yes.", "answer_missing"),
        ("no", "The answer is no.", None),
        ("A", "The blood type is A.", None),
        ("A", "The blood type is B.", "answer_missing"),
        ("!!!", "The band is called !!!", None),
        ("Dr. J. R. Smith", "The answer is Dr. J. R. Smith.", None),
    ],
)
def test_awkward_answers_are_found_at_the_end_of_a_text(answer: str, content: str, fault: str | None) -> None:
    example = replace(EXAMPLES[0], answer=answer, aliases=())
    assert find_fault(ChatResponse("r", "", content, "stop", Usage(1, 1, 0)), example) == fault


def test_words_of_the_source_do_not_leak_the_answer() -> None:
    text = "The answer key is in the safe. It is Rome."
    assert find_text_fault(text, "Where is the answer key?", ["Rome"]) is None
    assert find_text_fault(text, "Where is it?", ["Rome"]) == "leak"


@pytest.mark.parametrize(
    ("name", "accepted", "refused"),
    [
        ("exact_match", ["the new york city.", "nyc"], ["New York", "in New York City", ""]),
        ("substring", ["in New York City", "NYC, of course"], ["New York", ""]),
        ("f1>=0.8", ["New York City", "New York"], ["York", "somewhere else", ""]),  # F1 of "New York": 2*2/(2+3)
        ("f1>=0.81", ["New York City"], ["New York"]),
        (" f1 >= 1 ", ["New York City"], ["New York"]),
    ],
)
def test_criteria(name: str, accepted: list[str], refused: list[str]) -> None:
    accepts = parse_criterion(name).accepts
    assert all(accepts(answer, GOLD) for answer in accepted)
    assert not any(accepts(answer, GOLD) for answer in refused)


def test_the_recorded_name_of_a_criterion_is_canonical() -> None:
    assert parse_criterion(" f1 >= .80 ").name == "f1>=0.8"
    assert parse_criterion("exact_match").name == "exact_match"


@pytest.mark.parametrize("name", ["f1", "f1>0.5", "f1>=0", "f1>=1.5", "f1>=x", "em", ""])
def test_unknown_criteria_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(
        InputError, match=r"^recipe.accept is .*, expected exact_match, substring, or f1>= and a number"
    ):
        parse_criterion(name)


def asked(judge, student=right, **settings):
    recipe = SelfDistill(accept="judge", judging=Judging(judge=judge, scores=("rrp",), **settings))
    return recipe, recipe.synthesize(EXAMPLES, Models(Scripted(student), Oracle()))


def test_a_judge_decides_by_correctness_alone() -> None:
    # The judge accepts what exact match would not, and gives no score but correctness, whatever the test requests.
    def reply(request: ChatRequest) -> tuple[str, str]:
        return ("A" if example_of(request) in EXAMPLES[:4] else "B"), "stop"

    judge = Scripted(reply)
    recipe, made = asked(judge, student=wrong)
    assert len(judge.asked) == 6
    assert all(request.id.startswith("correctness/") for request in judge.asked)
    assert {trace.example_id for trace in made.traces} == {example.id for example in EXAMPLES[:4]}
    assert made.rejections == {"wrong": 2}
    assert recipe.settings == {"rollouts": 1, "accept": "judge", "judge": {"model": "scripted"}}


def test_missing_and_unreadable_judgments_are_counted() -> None:
    first = f"correctness/{EXAMPLES[0].id}/0/0"
    judge = Scripted(lambda request: ("Well.", "stop"), fails={first})
    _, made = asked(judge, attempts=2)
    assert made.traces == ()
    assert made.rejections == {"judge_failed": 1, "judge_unparsed": 5}
    assert len(judge.asked) == 6 + 5  # each unreadable judgment is requested once more


class Held(Scripted):
    """A model that holds something, and notes when it is closed."""

    def __init__(self, reply, name, events) -> None:
        super().__init__(reply)
        self.name, self.events = name, events

    def generate(self, requests):
        self.events.append(f"{self.name} generates")
        return super().generate(requests)

    def close(self) -> None:
        self.events.append(f"{self.name} is closed")


def test_student_and_judge_are_closed_after_their_use() -> None:
    # Student and judge may each fill the GPUs, and so may the training that comes next.
    events: list[str] = []
    judge = Held(lambda request: ("A", "stop"), "judge", events)
    recipe = SelfDistill(accept="judge", judging=Judging(judge=judge))
    recipe.synthesize(EXAMPLES, Models(Held(right, "student", events), Oracle()))
    assert events == ["student generates", "student is closed", "judge generates", "judge is closed"]


def test_the_oracle_judges() -> None:
    assert len(asked(OracleJudge())[1].traces) == 6
    assert asked(OracleJudge(), student=wrong)[1].rejections == {"wrong": 6}


def test_judgments_are_stored(tmp_path) -> None:
    judge = Scripted(lambda request: ("A", "stop"))
    path = tmp_path / "store.sqlite"
    for _ in range(2):
        asked(judge, store=path)
    assert len(judge.asked) == 6
    with ResponseStore(path) as store:
        assert len(store) == 6


@pytest.mark.parametrize("judging", [None, Judging()])
def test_accept_judge_needs_a_judge(judging: Judging | None) -> None:
    with pytest.raises(InputError, match=r"^recipe.accept=judge needs a judge: give judge=…, other than none$"):
        Acceptance("judge", judging)
    with pytest.raises(InputError, match=r"^recipe.accept is 'x', expected judge, exact_match"):
        Acceptance("x")
