"""The oracle: a teacher that needs no network and no weights.

It writes from the solution that the benchmark itself annotates, so it works on every `MultiHopExample`: generated
worlds and real HotpotQA, MuSiQue and 2WikiMultiHopQA items alike. Asked to revise a draft, it reads the draft: it keeps
the draft's own words where a step is sound, names the wrong turn or the loop it finds there, and leads back to the
annotated path. It stands in for a large teacher where there is none, and gives an upper bound on how faithful to the
evidence a teacher's traces can be.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Mapping

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.protocol import ChatModel, ChatRequest, ChatResponse, join_reasoning, tag_answer
from introspect.chat.usage import Usage
from introspect.core.errors import InputError
from introspect.oracle.draft_reading import read_draft
from introspect.oracle.writing import PHRASES, PLAIN_PHRASES, write_answer, write_guide, write_plain, write_trace

# Raised when what is written changes by more than the wording.
_VERSION = "4"

# Every prompt to a teacher begins with its task; a plain question has none.
_TASK = re.compile(r"<task>([^<]*)</task>")
_DRAFT = re.compile(r"<draft_solution>\n?(.*)\n?</draft_solution>", re.DOTALL)


class Oracle(ChatModel):
    """A `ChatModel` that answers from `ChatRequest.example`.

    The `<task>` with which a prompt to a teacher begins says what it writes: a trace in five phases (MBT-S), a rewrite
    of the `<draft_solution>` in five phases (MBT-R, Direct-R) or plainly (Distill-R), or a guide to the solution. That
    is then its content. It answers a plain question as a reasoning model would, with reasoning and a tagged answer;
    after a system turn, which prescribes the five phases, it reasons in those.
    """

    @property
    def identity(self) -> Mapping[str, str]:
        """Name the wording by a hash, so that changed phrases never meet a stored answer."""
        wording = hashlib.sha256(repr((PHRASES, PLAIN_PHRASES)).encode()).hexdigest()[:16]
        return {"model": "oracle", "phrases": wording, "version": _VERSION}

    def generate(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResponse]:
        """Answer each request at once.

        Raises:
            InputError: a request has no example, or a task that the oracle does not know.
        """
        for request in requests:
            yield self._answer(request)

    def _answer(self, request: ChatRequest) -> ChatResponse:
        if request.example is None:
            raise InputError(f"teacher=oracle: request {request.id} is about no benchmark item; take another teacher=")
        asked = sum(len(message.content.split()) for message in request.messages)
        if not request.example.evidence:
            # Nothing to say about an item whose annotation is unusable: an empty reply, which recipes reject and count.
            return ChatResponse(request.id, "", "", "stop", Usage(asked, 0, 0))
        reasoning, content = _reply(request, request.example)
        words = len(join_reasoning(reasoning, content).split())
        return ChatResponse(request.id, reasoning, content, "stop", Usage(asked, words, len(reasoning.split())))


def _reply(request: ChatRequest, example: MultiHopExample) -> tuple[str, str]:
    """Reasoning and content."""
    rng = random.Random(f"{request.sampling.seed}/{request.sample}/{example.id}")
    prompt = request.messages[-1].content
    task = _TASK.match(prompt)
    if task is None:
        in_phases = request.messages[0].role == "system"
        return (write_trace if in_phases else write_answer)(example, rng), tag_answer(example.answer)
    if task[1] == "write a guide":
        return "", write_guide(example)
    if task[1] == "write a trace":
        return "", write_trace(example, rng)
    draft = _DRAFT.search(prompt)
    writers = {"rewrite in phases": write_trace, "rewrite plainly": write_plain}
    if task[1] not in writers or draft is None:
        raise InputError(f"teacher=oracle: request {request.id} has the task {task[1]!r}, which it cannot do")
    return "", writers[task[1]](example, rng, read_draft(draft[1], example))
