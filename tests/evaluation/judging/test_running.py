"""Judging as a stage: who is asked what, what is asked again, and what is left out."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from introspect.benchmarks.examples import MultiHopExample
from introspect.benchmarks.hopworld import Hopworld
from introspect.chat.protocol import ChatFailure, ChatModel, ChatRequest, ChatResponse, Sampling, tag_answer
from introspect.chat.usage import Usage
from introspect.core.errors import InputError
from introspect.evaluation.evaluate import evaluate
from introspect.evaluation.generation import generate_rollouts
from introspect.evaluation.judging.judges import JUDGES
from introspect.evaluation.judging.judgments import (
    AnswerHit,
    Correctness,
    Effective,
    Failed,
    Judged,
    Metacognition,
    Profile,
    Quality,
    Unparsed,
)
from introspect.evaluation.judging.metrics import BaseLengths
from introspect.evaluation.judging.running import Judging, base_lengths, examples_of, nobody, save_judgments
from introspect.evaluation.report import write_report
from introspect.evaluation.rollouts import Rollout
from introspect.evaluation.runs import Runs
from introspect.oracle.judge import OracleJudge
from tests.evaluation.metrics import factory

REPLIES = {
    "correctness": "A",
    "answer_hit": "YES",
    "rrp": "ANSWER_PARAGRAPH_MARKER: [[M01]]\nREDUNDANT_PARAGRAPH_MARKERS: [[M_END]]\nCONFIDENCE: 90%\nNOTES: -",
    "mqi": "L_OBS: 2\nPHASES: 2\nCONFIDENCE: 0.5",
    "overthinking": "LAST_NEEDED_MARKER: [[M01]]",
    "underthinking": "LAST_USEFUL_MARKER: [[M00]]",
    "metacognition": "SCORE: 3",
}
RESULTS = {
    "correctness": Correctness("correct"),
    "answer_hit": AnswerHit(hit=True),
    "rrp": Profile(1, (2,), 0.9),
    "mqi": Quality(2, (2,), 0.5),
    "overthinking": Effective(1),
    "underthinking": Effective(0),
    "metacognition": Metacognition(3),
}
TRACE = "It is Paris.\n\nOr is it?"


class ScriptedJudge(ChatModel):
    """Replies as it is told, by judge and attempt; None refuses for good."""

    max_failure_rate = 0.5

    def __init__(self, reply: Callable[[str, int], str | None] = lambda name, attempt: REPLIES[name]) -> None:
        self.reply = reply
        self.asked: list[ChatRequest] = []

    @property
    def identity(self) -> Mapping[str, str]:
        return {"model": "scripted-judge"}

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse | ChatFailure]:
        for request in reversed(list(requests)):
            self.asked.append(request)
            content = self.reply(request.id.split("/")[0], request.sample)
            if content is None:
                yield ChatFailure(request.id, "refused", "no")
            else:
                yield ChatResponse(request.id, "", content, "stop", Usage(1, 1, 0))


def no_examples() -> Iterable[MultiHopExample]:
    raise AssertionError("nobody needs the items")


def judged(model: ScriptedJudge, *rollouts: Rollout, **settings: object) -> list[Judged]:
    return Judging(judge=model, **settings).judged(rollouts, no_examples)  # type: ignore[arg-type]


def test_every_judge_is_asked_what_applies_and_read() -> None:
    right = factory.rollout("a", predicted="Paris", reasoning=TRACE)
    wrong = factory.rollout("b", predicted="Rome", reasoning=TRACE)
    first, second = judged(ScriptedJudge(), right, wrong)
    assert first == Judged(right, {name: result for name, result in RESULTS.items() if name != "underthinking"})
    assert second == Judged(wrong, {name: result for name, result in RESULTS.items() if name != "overthinking"})


def test_only_chosen_judges_are_asked() -> None:
    model = ScriptedJudge()
    (one,) = judged(model, factory.rollout(predicted="Paris", reasoning=TRACE), scores=["mqi", "correctness"])
    assert list(one.judgments) == ["correctness", "mqi"]
    assert len(model.asked) == 2
    with pytest.raises(InputError, match="there is no judge 'rpr', expected correctness, answer_hit, rrp"):
        Judging(scores=["rpr"])
    with pytest.raises(InputError, match=r"judging\.scores is empty"):
        Judging(scores=[])


def test_what_follows_from_the_definition_is_not_asked() -> None:
    model = ScriptedJudge()
    (one,) = judged(model, factory.rollout(reasoning=" \n"))
    assert model.asked == []
    assert one.judgments == {
        "correctness": Correctness("not_attempted"),
        "answer_hit": AnswerHit(hit=False),
        "rrp": Profile(0, (), 1.0),
        "mqi": Quality(0, (), 1.0),
        "metacognition": Metacognition(0),
    }


def test_what_can_not_be_read_is_asked_once_more_as_another_draw(tmp_path: Path) -> None:
    model = ScriptedJudge(lambda name, attempt: REPLIES[name] if attempt else "Well, well.")
    store = tmp_path / "store.sqlite"
    about = factory.rollout(predicted="Paris", reasoning=TRACE)
    (one,) = judged(model, about, scores=["rrp", "mqi"], store=store)
    assert one.judgments == {"rrp": RESULTS["rrp"], "mqi": RESULTS["mqi"]}
    assert Counter(request.sample for request in model.asked) == {0: 2, 1: 2}
    # Both draws are kept: a second run asks nobody, and comes to the same end.
    silent = ScriptedJudge(lambda name, attempt: None)
    assert judged(silent, about, scores=["rrp", "mqi"], store=store) == [one]
    assert silent.asked == []


def test_what_can_not_be_read_twice_is_no_score() -> None:
    model = ScriptedJudge(lambda name, attempt: "Well, well.")
    (one,) = judged(model, factory.rollout(predicted="Paris", reasoning=TRACE), scores=["answer_hit", "rrp"])
    assert one.judgments == {
        "answer_hit": Unparsed("neither YES nor NO"),
        "rrp": Unparsed("no ANSWER_PARAGRAPH_MARKER"),
    }
    assert len(model.asked) == 4
    (once,) = judged(
        ScriptedJudge(lambda name, attempt: ""), factory.rollout(reasoning="x"), attempts=1, scores=["rrp"]
    )
    assert once.judgments == {"rrp": Unparsed("empty")}


def test_a_reply_that_was_cut_off_is_not_read() -> None:
    class Cut(ScriptedJudge):
        def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse | ChatFailure]:
            for request in requests:
                yield ChatResponse(request.id, "", REPLIES["mqi"], "length", Usage(1, 1, 0))

    (one,) = judged(Cut(), factory.rollout(reasoning=TRACE), scores=["mqi"])
    assert one.judgments == {"mqi": Unparsed("cut off")}


def test_requests_that_fail_are_neither_scores_nor_unparsed() -> None:
    model = ScriptedJudge(lambda name, attempt: None if name == "rrp" else REPLIES[name])
    (one,) = judged(model, factory.rollout(reasoning=TRACE), scores=["rrp", "mqi"])
    assert one.judgments == {"rrp": Failed(), "mqi": RESULTS["mqi"]}
    assert len(model.asked) == 2


def test_one_failure_among_few_second_draws_does_not_end_the_run() -> None:
    model = ScriptedJudge(lambda name, attempt: None if attempt else "Well, well." if name == "rrp" else REPLIES[name])
    model.max_failure_rate = 0.0
    (one,) = judged(model, factory.rollout(reasoning=TRACE), scores=["rrp", "mqi"])
    assert one.judgments["rrp"] == Unparsed("no ANSWER_PARAGRAPH_MARKER")
    failing = ScriptedJudge(lambda name, attempt: None)
    failing.max_failure_rate = 0.0
    with pytest.raises(InputError, match="1 of 1 requests failed"):
        judged(failing, factory.rollout(reasoning=TRACE), scores=["mqi"])


def test_prompts_show_what_the_judge_needs_and_no_more() -> None:
    about = factory.rollout(predicted="Rome", reasoning=TRACE, aliases=("City of Light",), tier="hard")
    model = ScriptedJudge()
    judged(model, about)
    prompts = {request.id.split("/")[0]: request.messages[0].content for request in model.asked}
    for name, prompt in prompts.items():
        assert "Question q?" in prompt, name
        assert "Paris\nCity of Light" in prompt, name
        assert ("Or is it?" in prompt) == (name != "correctness"), name
        assert ("Rome" in prompt) == (name == "correctness"), name
        assert ("It is Paris.\n\n[[M01]]\n\nOr is it?" in prompt) == (JUDGES[name].shows == "marked"), name
    assert "The question is hard." in prompts["mqi"]


def test_models_are_sent_no_item_and_asked_as_the_config_says() -> None:
    model = ScriptedJudge()
    sampling = Sampling(temperature=0.0)
    judged(model, factory.rollout(reasoning=TRACE), sampling=sampling)
    assert all(request.example is None and request.sampling == sampling for request in model.asked)


def test_no_judge_no_judgments() -> None:
    judging = Judging(judge=nobody())
    assert judging.judge_runs(None, [factory.rollout()], no_examples) is None
    assert judging.judged([factory.rollout()], no_examples) == [Judged(factory.rollout(), {})]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"attempts": 0}, "judging.attempts=0: expected 1 or more"),
        ({"base_tokens": 0.0}, "judging.base_tokens=0.0: expected more than 0, or null"),
        ({"base_sentences": -1.0}, "judging.base_sentences=-1.0: expected more than 0, or null"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(InputError, match=re.escape(complaint)):
        Judging(**settings)  # type: ignore[arg-type]


WORLDS = Hopworld(seed=3, sizes={"test": 6})
ITEMS = WORLDS.load("test")


class Walker(ChatModel):
    """Solves every hopworld item step by step, then takes the last step once too often; some answers it loses."""

    def __init__(self, lost: int = 0, failing: int = 0) -> None:
        self.lost, self.failing = ({item.id for item in ITEMS[:n]} for n in (lost, failing))

    max_failure_rate = 0.9

    @property
    def identity(self) -> Mapping[str, str]:
        return {"model": "walker"}

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse | ChatFailure]:
        for request in requests:
            example = request.example
            assert example is not None
            if example.id in self.failing:
                yield ChatFailure(request.id, "refused")
                continue
            steps = [step.statement for step in example.evidence]
            given = "Nowhere" if example.id in self.lost else example.answer
            reasoning = "\n\n".join([*steps, steps[-1], steps[-1]])
            tokens = len(reasoning.split())
            yield ChatResponse(request.id, reasoning, tag_answer(given), "stop", Usage(9, tokens + 2, tokens))


def test_a_report_of_judged_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = generate_rollouts(Walker(lost=3), ITEMS), generate_rollouts(Walker(), ITEMS)
    judged_runs = Judging(judge=OracleJudge()).judge_runs(before, after, lambda: ITEMS)
    assert judged_runs is not None
    write_report(Runs(after, before), tmp_path, judged=judged_runs)
    content = json.loads((tmp_path / "metrics.json").read_text())
    model, baseline = content["model"], content["baseline"]
    assert (baseline["judge_accuracy"], model["judge_accuracy"]) == (0.5, 1.0)
    assert (baseline["judge_answer_inclusive_error_rate"], model["judge_answer_inclusive_error_rate"]) == (0.5, 0.0)
    # 2, 3 and 4 hops: the answer comes with sentence h of h + 2; the last of them is the first needless one.
    assert model["rrp_rho"] == pytest.approx((2 / 4 + 3 / 5 + 4 / 6) / 3)
    assert model["rrp_delta"] == pytest.approx((1 / 4 + 1 / 5 + 1 / 6) / 3)
    assert model["rrp_sentences"] == content["judge"]["base_sentences"] == 5
    assert model["mqi"] == pytest.approx(baseline["mqi_level"]) == 1
    assert model["judge_unparsed"] == model["judge_failed"] == model["failed"] == 0
    assert content["judge"]["identity"]["model"] == "oracle-judge"
    assert len(model["ci95"]["rrp_r"]) == len(model["difference_ci95"]["judge_accuracy"]) == 2
    shown = capsys.readouterr().out
    assert "RRP, length-aware" in shown
    assert "judge: oracle-judge" in shown
    assert pq.read_table(tmp_path / "judgments/model.parquet").num_rows == 6 * 6


def test_saved_rollouts_are_judged_alone(tmp_path: Path) -> None:
    before, after = generate_rollouts(Walker(lost=3), ITEMS), generate_rollouts(Walker(), ITEMS)
    write_report(Runs(after, before), tmp_path / "run")
    settings = {"ckpt_path": None, "benchmark": WORLDS, "store": tmp_path / "s", "rescore": str(tmp_path / "run")}
    judging = Judging(judge=OracleJudge(), store=tmp_path / "store.sqlite")
    metrics = evaluate(**settings, folder=tmp_path / "again", judging=judging)  # type: ignore[arg-type]
    assert (metrics["test/judge_accuracy"], metrics["test/baseline/judge_accuracy"]) == (1.0, 0.5)
    assert metrics["test/rrp_r"] > 0
    without = evaluate(**settings, folder=tmp_path / "plain", judging=Judging())  # type: ignore[arg-type]
    assert not any("rrp" in name or "judge" in name for name in without)
    assert json.loads((tmp_path / "plain/metrics.json").read_text())["judge"] is None


def test_a_judge_that_reads_items_must_find_them() -> None:
    rollouts = generate_rollouts(Walker(), ITEMS)
    assert examples_of(rollouts, lambda: ITEMS) == {item.id: item for item in ITEMS}
    complaint = (
        "the judge reads the benchmark's items, and 1 that the rollouts are about are not among the 5 loaded ones, for"
        " example 'test-3-0' of hopworld: give the data=… (hopworld: also seed=…) and split that the rollouts were made"
        " with, or judge=none"
    )
    with pytest.raises(InputError, match=re.escape(complaint)):
        examples_of(rollouts, lambda: ITEMS[1:])
    other = Hopworld(seed=3, sizes={"test": 6}, documents=7).load("test")
    with pytest.raises(InputError, match="item 'test-3-0' of hopworld is not what the rollouts answer"):
        examples_of(rollouts, lambda: other)


def test_the_unit_of_length_is_the_baseline_or_given(caplog: pytest.LogCaptureFixture) -> None:
    rollouts = [factory.rollout("a", reasoning="One. Two.\n\nThree", completion_tokens=30)]
    rollouts.append(factory.rollout("b", reasoning="One", completion_tokens=10))
    assert base_lengths(rollouts) == BaseLengths(20, 2)
    assert (
        base_lengths([])
        == base_lengths([factory.rollout(reasoning="", completion_tokens=0)])
        == BaseLengths(None, None)
    )
    alone = Judging(judge=ScriptedJudge(), scores=["rrp", "mqi"]).judge_runs(None, rollouts, no_examples)
    assert alone is not None
    assert alone.model.base == BaseLengths(None, None)
    assert "without a baseline MQI and the length-aware RRP have no unit and are left out" in caplog.text
    given = Judging(judge=ScriptedJudge(), base_tokens=731, base_sentences=40)
    judged_runs = given.judge_runs(rollouts, rollouts, no_examples)
    assert judged_runs is not None
    assert judged_runs.model.base == BaseLengths(731, 40)


def test_what_is_left_out_is_said_and_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rollouts = [factory.rollout(name, predicted="Paris", reasoning=TRACE) for name in "ab"]
    broken = {"rrp": None, "mqi": "Well, well."}
    model = ScriptedJudge(lambda name, attempt: broken.get(name, REPLIES[name]))
    with caplog.at_level(logging.WARNING):
        judged_runs = Judging(judge=model, base_tokens=1, base_sentences=1).judge_runs(None, rollouts, no_examples)
    assert judged_runs is not None
    assert "about the model that the judge gave in no readable form, left out: 2 x mqi: no L_OBS" in caplog.text
    assert "2 requests about the model were not answered by the judge, and are left out" in caplog.text
    numbers = write_report(Runs(rollouts), tmp_path, judged=judged_runs)
    assert (numbers["judge_unparsed"], numbers["judge_failed"]) == (2, 2)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["judge"]["unparsed"] == {"model": {"mqi: no L_OBS": 2}}
    assert content["model"]["mqi_level"] is None
    assert content["model"]["judge_accuracy"] == 1
    table = pq.read_table(tmp_path / "judgments/model.parquet").to_pylist()
    outcomes = {row["judge"]: (row["outcome"], json.loads(row["judgment"])) for row in table}
    assert outcomes["rrp"] == ("failed", {})
    assert outcomes["mqi"] == ("unparsed", {"reason": "no L_OBS"})
    assert outcomes["correctness"] == ("parsed", {"grade": "correct"})


def test_traces_that_are_missing_are_said(caplog: pytest.LogCaptureFixture) -> None:
    rollouts = [factory.rollout(name, reasoning=text) for name, text in (("a", ""), ("b", ""), ("c", "x"))]
    Judging(judge=ScriptedJudge(), base_tokens=1, base_sentences=1).judge_runs(None, rollouts, no_examples)
    assert "2 of 3 rollouts of the model have no reasoning to be judged" in caplog.text


def test_failed_rollouts_are_counted_and_the_rest_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, after = generate_rollouts(Walker(failing=1), ITEMS), generate_rollouts(Walker(failing=2), ITEMS)
    assert (len(before), len(after)) == (5, 4)
    runs = Runs.of(6, after, before)
    assert (runs.model_failed, runs.baseline_failed) == (2, 1)
    judged_runs = Judging(judge=OracleJudge()).judge_runs(before, after, lambda: ITEMS)
    numbers = write_report(runs, tmp_path / "run", judged=judged_runs)
    assert (numbers["failed"], numbers["baseline/failed"], numbers["baseline/n"]) == (2, 1, 4)
    assert "1 of 5 questions are left out of the comparison" in caplog.text
    # The files know it too.
    settings = {"ckpt_path": None, "benchmark": WORLDS, "store": tmp_path / "s", "rescore": str(tmp_path / "run")}
    metrics = evaluate(**settings, folder=tmp_path / "again")  # type: ignore[arg-type]
    assert (metrics["test/failed"], metrics["test/baseline/failed"], metrics["test/n"]) == (2, 1, 4)
    with pytest.raises(InputError, match="same questions"):
        write_report(Runs(after, before), tmp_path / "other")


def test_judgments_of_nobody_are_an_empty_file(tmp_path: Path) -> None:
    save_judgments([Judged(factory.rollout(), {})], tmp_path / "x/judgments.parquet")
    table = pq.read_table(tmp_path / "x/judgments.parquet")
    assert table.num_rows == 0
    names = {
        "example_id": "string",
        "rollout_id": "int64",
        "judge": "string",
        "outcome": "string",
        "judgment": "string",
    }
    assert {field.name: str(field.type) for field in table.schema} == names
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["judgments.parquet"]
