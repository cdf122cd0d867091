from __future__ import annotations

import pytest

from introspect.chat.protocol import ChatRequest
from introspect.chat.store import ResponseStore
from introspect.core.errors import InputError
from introspect.evaluation.judging.running import Judging
from introspect.oracle.judge import OracleJudge
from introspect.oracle.teacher import Oracle
from introspect.synthesis.acceptance import Acceptance, parse_criterion
from introspect.synthesis.recipes import SelfDistill
from tests.synthesis.recipes.scripted import EXAMPLES, Scripted, example_of, right, wrong

GOLD = ["New York City", "NYC"]


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


def test_the_name_that_is_recorded_is_canonical() -> None:
    assert parse_criterion(" f1 >= .80 ").name == "f1>=0.8"
    assert parse_criterion("exact_match").name == "exact_match"


@pytest.mark.parametrize("name", ["f1", "f1>0.5", "f1>=0", "f1>=1.5", "f1>=x", "em", ""])
def test_others_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(
        InputError, match=r"^recipe.accept is .*, expected exact_match, substring, or f1>= and a number"
    ):
        parse_criterion(name)


def asked(judge, student=right, **settings):
    recipe = SelfDistill(accept="judge", judging=Judging(judge=judge, scores=("rrp",), **settings))
    return recipe, recipe.synthesize(EXAMPLES, Scripted(student), Oracle())


def test_a_judge_decides_about_the_answer_alone() -> None:
    # The judge accepts what exact match would not, and is asked for nothing but correctness, whatever the test asks.
    def reply(request: ChatRequest) -> tuple[str, str]:
        return ("A" if example_of(request) in EXAMPLES[:4] else "B"), "stop"

    judge = Scripted(reply)
    recipe, made = asked(judge, student=wrong)
    assert len(judge.asked) == 6
    assert all(request.id.startswith("correctness/") for request in judge.asked)
    assert {trace.example_id for trace in made.traces} == {example.id for example in EXAMPLES[:4]}
    assert made.rejections == {"wrong": 2}
    assert recipe.settings == {"rollouts": 1, "accept": "judge", "judge": {"model": "scripted"}}


def test_what_a_judge_does_not_say_is_counted() -> None:
    first = f"correctness/{EXAMPLES[0].id}/0/0"
    judge = Scripted(lambda request: ("Well.", "stop"), fails={first})
    _, made = asked(judge, attempts=2)
    assert made.traces == ()
    assert made.rejections == {"judge_failed": 1, "judge_unparsed": 5}
    assert len(judge.asked) == 6 + 5  # what could not be read was asked for once more


class Held(Scripted):
    """A model that holds something, and notes when it is let go."""

    def __init__(self, reply, name, events) -> None:
        super().__init__(reply)
        self.name, self.events = name, events

    def generate(self, requests):
        self.events.append(f"{self.name} is asked")
        return super().generate(requests)

    def close(self) -> None:
        self.events.append(f"{self.name} is let go")


def test_who_has_answered_makes_room() -> None:
    # Student and judge may each fill the GPUs, and so may the training that comes next.
    events: list[str] = []
    judge = Held(lambda request: ("A", "stop"), "judge", events)
    recipe = SelfDistill(accept="judge", judging=Judging(judge=judge))
    recipe.synthesize(EXAMPLES, Held(right, "student", events), Oracle())
    assert events == ["student is asked", "student is let go", "judge is asked", "judge is let go"]


def test_the_oracle_judges() -> None:
    assert len(asked(OracleJudge())[1].traces) == 6
    assert asked(OracleJudge(), student=wrong)[1].rejections == {"wrong": 6}


def test_judgements_are_kept(tmp_path) -> None:
    judge = Scripted(lambda request: ("A", "stop"))
    path = tmp_path / "store.sqlite"
    for _ in range(2):
        asked(judge, store=path)
    assert len(judge.asked) == 6
    with ResponseStore(path) as store:
        assert len(store) == 6


@pytest.mark.parametrize("judging", [None, Judging()])
def test_without_a_judge_nobody_can_decide(judging: Judging | None) -> None:
    with pytest.raises(InputError, match=r"^recipe.accept=judge needs a judge: give judge=…, other than none$"):
        Acceptance("judge", judging)
    with pytest.raises(InputError, match=r"^recipe.accept is 'x', expected judge, exact_match"):
        Acceptance("x")
