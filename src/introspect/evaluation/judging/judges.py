"""The judges: what each is asked about a rollout, and how its reply is read.

A judge is a prompt and a parser; any `ChatModel` can play it. docs/judges.md says where the questions come from and how
they differ from the reference's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from introspect.benchmarks.answers import exact_match
from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import render
from introspect.chat.protocol import ChatRequest, ChatResponse, Message, Sampling
from introspect.core.errors import InputError
from introspect.evaluation.judgments import (
    AnswerHit,
    Correctness,
    Metacognition,
    Profile,
    Quality,
    Result,
    Unparsed,
    parse_answer_hit,
    parse_correctness,
    parse_metacognition,
    parse_overthinking,
    parse_profile,
    parse_quality,
    parse_underthinking,
)
from introspect.evaluation.rollouts import Rollout
from introspect.oracle.paragraphs import defuse, marked, paragraphs


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """One question about a rollout.

    name: in requests, reports and options.
    prompt: the Jinja file.
    shows: what of the rollout is shown: its final `answer`, its plain `trace`, or the trace `marked` by paragraph.
    parse: reads a reply about a trace of so many paragraphs.
    empty: the result where the rollout has nothing that could be shown. It follows from the definition of the score,
        so nobody is asked; None if the score does not exist there.
    applies: whether the question is asked about this rollout at all.
    """

    name: str
    prompt: str
    shows: Literal["answer", "trace", "marked"]
    parse: Callable[[str, int], Result | Unparsed]
    empty: Result | None
    applies: Callable[[Rollout], bool] = lambda rollout: True

    def settled(self, rollout: Rollout) -> bool:
        """Whether there is nothing to be shown, so that `empty` holds."""
        return not (rollout.predicted_answer if self.shows == "answer" else rollout.reasoning).strip()

    def request(
        self, rollout: Rollout, sampling: Sampling, attempt: int, example: MultiHopExample | None
    ) -> ChatRequest:
        """The request about a rollout; attempts are numbered from 0 and drawn independently."""
        values: dict[str, object] = {
            "question": defuse(rollout.question),
            "answers": [defuse(reference) for reference in rollout.references],
            "tier": rollout.tier,
        }
        if self.shows == "answer":
            values["given_answer"] = defuse(rollout.predicted_answer)
        else:
            values["trace"] = (marked if self.shows == "marked" else defuse)(rollout.reasoning.strip())
        return ChatRequest(
            id=f"{self.name}/{rollout.example_id}/{rollout.rollout_id}/{attempt}",
            messages=(Message("user", render("evaluation.judging", self.prompt, **values)),),
            sampling=sampling,
            sample=attempt,
            example=example,
        )

    def read(self, rollout: Rollout, response: ChatResponse) -> Result | Unparsed:
        """What a reply says about the rollout."""
        if not response.finished:
            return Unparsed("cut off")
        return self.parse(response.content, len(paragraphs(rollout.reasoning)))


def is_right(rollout: Rollout) -> bool:
    """Whether the final answer is an exact match: what decides between over- and underthinking."""
    return bool(exact_match(rollout.predicted_answer, rollout.references))


def is_wrong(rollout: Rollout) -> bool:
    """The opposite of `is_right`."""
    return not is_right(rollout)


_JUDGES = (
    Judge(
        name="correctness",
        prompt="judge_correctness",
        shows="answer",
        parse=parse_correctness,
        empty=Correctness("not_attempted"),
    ),
    Judge(
        name="answer_hit", prompt="judge_answer_hit", shows="trace", parse=parse_answer_hit, empty=AnswerHit(hit=False)
    ),
    Judge(name="rrp", prompt="judge_rrp", shows="marked", parse=parse_profile, empty=Profile(0, (), 1.0)),
    Judge(name="mqi", prompt="judge_mqi", shows="trace", parse=parse_quality, empty=Quality(0, (), 1.0)),
    Judge(
        name="overthinking",
        prompt="judge_overthinking",
        shows="marked",
        parse=parse_overthinking,
        empty=None,
        applies=is_right,
    ),
    Judge(
        name="underthinking",
        prompt="judge_underthinking",
        shows="marked",
        parse=parse_underthinking,
        empty=None,
        applies=is_wrong,
    ),
    Judge(
        name="metacognition",
        prompt="judge_metacognition",
        shows="trace",
        parse=parse_metacognition,
        empty=Metacognition(0),
    ),
)

JUDGES: Mapping[str, Judge] = {judge.name: judge for judge in _JUDGES}


def chosen_judges(names: Sequence[str]) -> tuple[Judge, ...]:
    """The judges of these names, in the order of `JUDGES`.

    Raises:
        InputError: there is none of a name, or no name is given.
    """
    if unknown := [name for name in names if name not in JUDGES]:
        raise InputError(f"judging.scores: there is no judge {unknown[0]!r}, expected {', '.join(JUDGES)}")
    if not names:
        raise InputError(f"judging.scores is empty: give some of {', '.join(JUDGES)}, or judge=none")
    return tuple(judge for name, judge in JUDGES.items() if name in names)
