"""Decide which candidates become traces; every reason of a rejection is in this file.

`find_draft_fault` and `find_guide_fault` reject what a teacher would build on, `find_fault` rejects teachers' texts,
`find_rollout_fault` and an `Acceptance` reject rollouts, `collect` rejects duplicates. The paper leaves the criterion
for rollouts open (the published training sets have a column `evaluation` that no released program writes), so it is a
setting here, and is recorded with the traces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from introspect.benchmarks.answers import exact_match, f1_score, normalize_answer, substring_match
from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.protocol import ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, ChatResponse
from introspect.core.errors import InputError
from introspect.evaluation.judging.judgments import Correctness, Judgment, Unparsed
from introspect.evaluation.judging.running import Judging
from introspect.evaluation.rollouts import Rollout
from introspect.synthesis.traces import Trace, TraceSet

JUDGE = "judge"
_CORRECTNESS = "correctness"
_F1 = re.compile(r"f1\s*>=\s*(\d*\.?\d+)")
_CHOICES = "exact_match, substring, or f1>= and a number above 0, up to 1"

# A trace that mentions what only its writer was given teaches the student to expect it.
_LEAK = re.compile(
    r"\b(?:(?:provided|given|gold|reference|expected|known|supplied|target) (?:final |correct )?answer"
    r"|(?:provided|given|known|supplied) (?:as )?(?:the )?correct answer"
    r"|correct answer (?:that )?(?:was|is|we were|being) (?:given|provided|told|supplied|known)"
    r"|ground[- ]truth|answer key|the hint\b|(?:the|this|your) (?:prompt|instructions?)"
    r"|answer we (?:already )?(?:have|know|were given|were told)"
    r"|(?:original|previous|earlier|initial) (?:solution|attempt|response|answer|reasoning)"
    r"|(?:answer|solution) (?:(?:that )?(?:was|is|we were) )?(?:given|provided)"
    r"|(?:the|this|that|our|student's|student’s) draft(?: solution)?"
    r"|the student(?:'s|’s)? (?:reasoning|answer|attempt|solution)"
    r"|(?:solution|reference) guide|the guide (?:says|tells|warns|lists)"
    r"|correct_answer|draft_solution)\b",
    re.IGNORECASE,
)
# As `normalize_answer` leaves them.
_ASSERTS = frozenset("is are was were isnt be answer but instead rather".split())
_DENIES = frozenset("not never isnt wasnt neither nor".split())


def find_draft_fault(reply: ChatResponse | None, *, unfinished: bool = False) -> str | None:
    """Return why a draft cannot be rewritten, or None if it can.

    Args:
        reply: the draft, None if the request failed.
        unfinished: whether drafts that hit the length limit are rewritten too.
    """
    if reply is None:
        return "request_failed"
    if not reply.finished and not unfinished:
        return "draft_unfinished"
    return None if reply.reasoning or reply.content else "draft_empty"


def find_guide_fault(reply: ChatResponse | None) -> str | None:
    """Return why a reply is no guide to a solution, or None if it is one."""
    if reply is None:
        return "request_failed"
    if not reply.finished:
        return "guide_unfinished"
    return None if reply.content.strip() else "guide_empty"


def find_rollout_fault(reply: ChatResponse) -> str | None:
    """Return why a rollout has no trace in it, or None if it has one; whether it is correct is an `Acceptance`'s."""
    if not reply.finished:
        return "unfinished"
    return None if reply.reasoning and reply.content else "empty"


def find_fault(response: ChatResponse | None, example: MultiHopExample) -> str | None:
    """Return why a teacher's response cannot be a trace of this example, or None if it can.

    request_failed: there is no response. truncated: it hit the length limit. The others are those of `find_text_fault`;
    the teacher's own think block is not part of the text.
    """
    if response is None:
        return "request_failed"
    if not response.finished:
        return "truncated"
    return find_text_fault(response.content, f"{example.question}\n{example.context}", example.references)


def find_text_fault(trace: str, source: str, references: Sequence[str]) -> str | None:
    """Return why a text cannot be a trace, or None if it can.

    empty: it is blank. tags: it contains think or answer tags, which would break the form of the target. leak: it
    mentions that an answer, a draft or a guide was given, in words that the source (question and documents) does not
    use. answer_missing: it does not conclude with one of the accepted answers.
    """
    trace = trace.strip()
    if not trace:
        return "empty"
    if any(tag in trace for tag in (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN)):
        return "tags"
    if any(match[0].lower() not in source.lower() for match in _LEAK.finditer(trace)):
        return "leak"
    return None if any(_ends_in(trace, reference) for reference in references) else "answer_missing"


def _ends_in(trace: str, reference: str) -> bool:
    """Return whether a trace concludes with the reference: in its last paragraph, not negated, with little after it.

    Words may follow ("… is London, in England."), but nothing that says what something is.
    """
    wanted = normalize_answer(reference)
    if not wanted:  # "A", "The The", "!!!": the normalised form is empty
        return trace.rstrip(" .*").endswith(reference.strip(" ."))
    ending = normalize_answer(re.split(r"\n\s*\n", trace)[-1])
    before, found, after = f" {ending} ".rpartition(f" {wanted} ")
    following = after.split()
    return bool(found) and len(following) <= 6 and not _ASSERTS & {*following} and not _DENIES & {*before.split()[-2:]}


def collect(candidates: Sequence[tuple[str | None, Trace]]) -> TraceSet:
    """Separate candidates (fault or None, trace): accepted ones in the order of their ids, rejected ones counted.

    The same target twice for one example is a `duplicate`.
    """
    rejections: Counter[str] = Counter()
    accepted: list[Trace] = []
    seen: set[tuple[str, str]] = set()
    for fault, trace in sorted(candidates, key=lambda c: (c[1].example_id, c[1].rollout_id, c[1].trace_id)):
        if fault is None and (trace.example_id, trace.target) in seen:
            fault = "duplicate"
        if fault is None:
            seen.add((trace.example_id, trace.target))
            accepted.append(trace)
        else:
            rejections[fault] += 1
    return TraceSet(tuple(accepted), dict(rejections))


@dataclass(frozen=True, slots=True)
class Criterion:
    """When an answer is accepted.

    Attributes:
        name: recorded with the traces.
        accepts: decides from the answer and the accepted ones.
    """

    name: str
    accepts: Callable[[str, Sequence[str]], bool]


def parse_criterion(text: str, *, others: str = "") -> Criterion:
    """Return the criterion that the setting `recipe.accept` names.

    Args:
        text: `exact_match` or `substring` (defined in `benchmarks.answers`), or a least token F1 such as `f1>=0.8`.
        others: what else the setting can be, for the error.

    Raises:
        InputError: it is none of them.
    """
    name = str(text).strip()
    if name == "exact_match":
        return Criterion(name, lambda answer, references: exact_match(answer, references) == 1.0)
    if name == "substring":
        return Criterion(name, lambda answer, references: substring_match(answer, references) == 1.0)
    if (found := _F1.fullmatch(name)) and 0 < (least := float(found[1])) <= 1:
        return Criterion(f"f1>={least:g}", lambda answer, references: f1_score(answer, references) >= least)
    raise InputError(f"recipe.accept is {text!r}, expected {others}{_CHOICES}")


class Acceptance:
    """Decides about rollouts by a criterion, or by a judge.

    Args:
        accept: a criterion of `parse_criterion`, or `judge`.
        judging: the judge, where `accept` is `judge`; of its scores only `correctness` is used.

    Raises:
        InputError: there is no such criterion, or no judge.
    """

    def __init__(self, accept: str, judging: Judging | None = None) -> None:
        self._criterion = None if accept == JUDGE else parse_criterion(accept, others=f"{JUDGE}, ")
        if self._criterion is None and (judging is None or judging.judge is None):
            raise InputError("recipe.accept=judge needs a judge: give judge=…, other than none")
        self._judging = judging

    @property
    def settings(self) -> Mapping[str, object]:
        """The criterion, and the judge's identity."""
        if self._criterion is not None:
            return {"accept": self._criterion.name}
        assert self._judging is not None
        assert self._judging.judge is not None
        return {"accept": JUDGE, "judge": dict(self._judging.judge.identity)}

    def faults(self, rollouts: Sequence[Rollout], examples: Sequence[MultiHopExample]) -> list[str | None]:
        """Return why each rollout is rejected, None if it is accepted, in their order.

        `wrong`; of a judge also `judge_failed` (there is no response) and `judge_unparsed` (it could not be read).
        """
        if self._criterion is not None:
            accepts = self._criterion.accepts
            return [None if accepts(rollout.predicted_answer, rollout.references) else "wrong" for rollout in rollouts]
        assert self._judging is not None
        judging = replace(self._judging, scores=(_CORRECTNESS,))
        try:
            judged = judging.judged(rollouts, lambda: examples, "judge reads the rollouts")
        finally:
            judging.close()  # training needs the memory
        return [_fault_of(item.judgments.get(_CORRECTNESS)) for item in judged]


def _fault_of(judgment: Judgment | None) -> str | None:
    if isinstance(judgment, Correctness):
        return None if judgment.grade == "correct" else "wrong"
    return "judge_unparsed" if isinstance(judgment, Unparsed) else "judge_failed"
