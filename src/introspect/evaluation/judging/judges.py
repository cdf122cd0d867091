"""The judges: what each is asked about a rollout.

A judge is a prompt, and a parser of the same name in `parsing`; any `ChatModel` can play it. docs/judges.md says where
the questions come from and how they differ from the reference's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import render
from introspect.chat.protocol import ChatRequest, ChatResponse, Message, Sampling
from introspect.core.errors import InputError
from introspect.evaluation.judging.judgments import (
    AnswerHit,
    Correctness,
    Metacognition,
    Profile,
    Quality,
    Result,
    Unparsed,
)
from introspect.evaluation.judging.parsing import parse_reply
from introspect.evaluation.outcomes import is_correct
from introspect.evaluation.rollouts import Rollout
from introspect.oracle.paragraphs import defuse, marked, paragraphs


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """One question about a rollout.

    Attributes:
        name: in requests, reports and options; `prompts/judge_<name>.jinja` is its prompt.
        shows: what of the rollout is shown: its final `answer`, its `trace`, or the trace `marked` by paragraph.
        empty: the result where the rollout has nothing to show. It follows from the definition of the score, so no
            request is made; None if the score does not exist there.
        applies: whether the question is about this rollout at all.
    """

    name: str
    shows: Literal["answer", "trace", "marked"]
    empty: Result | None
    applies: Callable[[Rollout], bool] = lambda rollout: True

    def is_empty(self, rollout: Rollout) -> bool:
        """Whether the rollout has nothing to show, so that `empty` holds."""
        return not (rollout.predicted_answer if self.shows == "answer" else rollout.reasoning).strip()

    def request(
        self, rollout: Rollout, sampling: Sampling, attempt: int, example: MultiHopExample | None
    ) -> ChatRequest:
        """Make the request about a rollout; attempts are numbered from 0 and drawn independently."""
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
            messages=(Message("user", render("evaluation.judging", f"judge_{self.name}", **values)),),
            sampling=sampling,
            sample=attempt,
            example=example,
        )

    def read(self, rollout: Rollout, response: ChatResponse) -> Result | Unparsed:
        """Read a reply about the rollout."""
        if not response.finished:
            return Unparsed("cut off")
        return parse_reply(self.name, response.content, len(paragraphs(rollout.reasoning)))


_JUDGES = (
    Judge(name="correctness", shows="answer", empty=Correctness("not_attempted")),
    Judge(name="answer_hit", shows="trace", empty=AnswerHit(hit=False)),
    Judge(name="rrp", shows="marked", empty=Profile(0, (), 1.0)),
    Judge(name="mqi", shows="trace", empty=Quality(0, (), 1.0)),
    Judge(name="overthinking", shows="marked", empty=None, applies=is_correct),
    Judge(name="underthinking", shows="marked", empty=None, applies=lambda rollout: not is_correct(rollout)),
    Judge(name="metacognition", shows="trace", empty=Metacognition(0)),
)
JUDGES: Mapping[str, Judge] = {judge.name: judge for judge in _JUDGES}


def chosen_judges(names: Sequence[str]) -> tuple[Judge, ...]:
    """Return the judges of these names, in the order of `JUDGES`.

    Raises:
        InputError: a name is unknown, or no name is given.
    """
    if unknown := [name for name in names if name not in JUDGES]:
        raise InputError(f"judging.scores: there is no judge {unknown[0]!r}, expected {', '.join(JUDGES)}")
    if not names:
        raise InputError(f"judging.scores is empty: give some of {', '.join(JUDGES)}, or judge=none")
    return tuple(judge for name, judge in JUDGES.items() if name in names)
