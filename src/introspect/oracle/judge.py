"""The oracle judge: a judge that needs no network and no weights.

It answers the prompts of `evaluation.judging`, in the form that they ask for, from the solution that the benchmark
annotates. On hopworld, where every true sentence is known, that is the truth; on real items it goes as far as the
annotation does: it ignores a paraphrase that it does not recognise, and lowers its confidence.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from introspect.benchmarks.answers import exact_match
from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.protocol import ChatModel, ChatRequest, ChatResponse
from introspect.chat.usage import Usage
from introspect.core.errors import InputError
from introspect.oracle import phases, solution, trace_reading
from introspect.oracle.trace_reading import TraceReading, read_trace

log = logging.getLogger(__name__)

# What a prompt asks for at its end, and what it is then about.
_KINDS = {
    "A, B or C": "correctness",
    "YES or NO": "answer_hit",
    "ANSWER_PARAGRAPH_MARKER": "rrp",
    "L_OBS": "mqi",
    "LAST_NEEDED_MARKER": "overthinking",
    "LAST_USEFUL_MARKER": "underthinking",
    "SCORE": "metacognition",
}
_SHOWN = re.compile(r"<(trace|given_answer)>\n(.*)\n</\1>(.*)", re.DOTALL)
_MARKER_LINE = re.compile(r"\n\n\[\[M\d+\]\]\n\n")

_read = lru_cache(maxsize=64)(read_trace)  # several judges in a row read the same long trace


class OracleJudge(ChatModel):
    """A `ChatModel` that answers judges' prompts from `ChatRequest.example`.

    Its confidence is the fraction of the sentences that a rule knows. It replies that it does not know about an item
    without annotated evidence.
    """

    # Judges are otherwise asked without the example, which is no part of what they are sent.
    reads_examples = True

    @property
    def identity(self) -> Mapping[str, str]:
        """Name the rules by a hash, so that changed rules never meet a stored judgment."""
        return {"model": "oracle-judge", "rules": _rules()}

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse]:
        """Answer each request at once.

        Raises:
            InputError: a request has no example, or is not one of a judge.
        """
        warned = False
        for request in requests:
            content = _reply(request)
            if not warned and request.example and request.example.benchmark != "hopworld":
                warned = True
                log.warning(
                    "judge=oracle knows of %s only what is annotated, and no paraphrase of it: read its scores as rough"
                    " ones, or take a model, e.g. judge=gemma_31b",
                    request.example.benchmark,
                )
            yield ChatResponse(request.id, "", content, "stop", Usage(0, len(content.split()), 0))


@lru_cache(maxsize=1)
def _rules() -> str:
    sources = (
        Path(file).read_bytes() for file in (__file__, trace_reading.__file__, solution.__file__, phases.__file__)
    )
    return hashlib.sha256(b"".join(sources)).hexdigest()[:16]


def _reply(request: ChatRequest) -> str:
    example = request.example
    if example is None:
        raise InputError(f"judge=oracle: request {request.id} is about no benchmark item; take another judge=")
    found = _SHOWN.search(request.messages[-1].content)
    kind = next((kind for sign, kind in _KINDS.items() if found and sign in found[3]), None)
    if found is None or kind is None:
        raise InputError(f"judge=oracle: request {request.id} is no question that it knows")
    shown = found[2]
    if kind == "correctness":
        return "A" if exact_match(shown, example.references) else "B"
    if not example.evidence:
        return "UNKNOWN: nothing is annotated about this item"
    return _about_trace(kind, _read(_MARKER_LINE.sub("\n\n", shown), example), example)


def _about_trace(kind: str, reading: TraceReading, example: MultiHopExample) -> str:
    if kind == "answer_hit":
        return "YES" if reading.hit else "NO"
    if kind == "overthinking":
        return f"LAST_NEEDED_MARKER: {_marker(reading.last_needed)}"
    if kind == "underthinking":
        return f"LAST_USEFUL_MARKER: {_marker(reading.last_useful)}"
    if kind == "metacognition":
        return f"SCORE: {reading.level}"
    confidence = f"CONFIDENCE: {reading.placed:.2f}"
    if kind == "mqi":
        phases = ", ".join(map(str, reading.phases)) or "NONE"
        return f"L_OBS: {reading.level}\nPHASES: {phases}\n{confidence}"
    redundant = ", ".join(map(_marker, reading.redundant)) or "NONE"
    return (
        f"ANSWER_PARAGRAPH_MARKER: {_marker(reading.first_correct)}\nREDUNDANT_PARAGRAPH_MARKERS: {redundant}\n"
        f"{confidence}\nNOTES: {reading.steps} of {len(example.evidence)} annotated steps are made."
    )


def _marker(paragraph: int) -> str:
    return f"[[M{paragraph:02d}]]"
