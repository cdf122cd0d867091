"""What a student answered, one record per sampled response, and the Parquet file that keeps it.

The file is all that scoring needs: it can be scored again, read with any data-frame library, or compared with another
run, without a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from introspect.benchmarks.examples import MultiHopExample, Tier
from introspect.chat.protocol import FINISHED, ChatRequest, ChatResponse, extract_answer
from introspect.core.errors import InputError
from introspect.core.parquet import Table


@dataclass(frozen=True, slots=True)
class Rollout:
    """One response of a student to one question; (`example_id`, `rollout_id`) is unique in a run.

    Attributes:
        example_id: of the question.
        rollout_id: numbers the responses to the same question from 0.
        benchmark: name of the benchmark.
        question: as it was asked.
        answer: the primary accepted answer.
        aliases: further accepted answers.
        hops: that the annotated solution chains.
        tier: difficulty of the question.
        reasoning: the think block.
        content: what follows the think block.
        finish_reason: the server's word; `stop` for a turn that ended by itself.
        prompt_tokens: tokens of the prompt.
        reasoning_tokens: tokens of the think block.
        completion_tokens: all tokens that the model wrote, see `chat.usage.Usage`.
    """

    example_id: str
    rollout_id: int
    benchmark: str
    question: str
    answer: str
    aliases: tuple[str, ...]
    hops: int
    tier: Tier
    reasoning: str
    content: str
    finish_reason: str
    prompt_tokens: int
    reasoning_tokens: int
    completion_tokens: int

    @classmethod
    def of(cls, example: MultiHopExample, request: ChatRequest, response: ChatResponse) -> Rollout:
        """Join an example with the request made about it and the response to that request.

        Raises:
            ValueError: the response belongs to another request, or the request to another example.
        """
        if response.request_id != request.id:
            raise ValueError(f"response to request {response.request_id!r} joined with request {request.id!r}")
        if request.example is not None and request.example.id != example.id:
            raise ValueError(f"request about example {request.example.id!r} joined with example {example.id!r}")
        return cls(
            example_id=example.id,
            rollout_id=request.sample,
            benchmark=example.benchmark,
            question=example.question,
            answer=example.answer,
            aliases=example.aliases,
            hops=example.hops,
            tier=example.tier,
            reasoning=response.reasoning,
            content=response.content,
            finish_reason=response.finish_reason,
            prompt_tokens=response.usage.prompt_tokens,
            reasoning_tokens=response.usage.reasoning_tokens,
            completion_tokens=response.usage.completion_tokens,
        )

    @property
    def predicted_answer(self) -> str:
        """The answer between the tags of the content, "" where there is none; the think block is never searched."""
        return extract_answer(self.content)

    @property
    def finished(self) -> bool:
        """Whether the turn ended by itself; a rollout that did not is degenerate."""
        return self.finish_reason in FINISHED

    @property
    def references(self) -> tuple[str, ...]:
        """Every accepted answer, the primary one first."""
        return (self.answer, *self.aliases)


def _complaint(rollout: Rollout) -> str | None:
    """What is wrong with a rollout's values, if anything."""
    for name in ("rollout_id", "hops", "prompt_tokens", "reasoning_tokens", "completion_tokens"):
        if (value := getattr(rollout, name)) < 0:
            return f"column {name!r} is {value}, expected 0 or more"
    if rollout.reasoning_tokens > rollout.completion_tokens:
        return f"column 'reasoning_tokens' is {rollout.reasoning_tokens}, more than completion_tokens"
    return None


# `predicted_answer` is written for readers of the file.
ROLLOUTS = Table(
    Rollout,
    "rollouts",
    key=("example_id", "rollout_id"),
    names={"aliases": "answer_aliases", "reasoning": "reasoning_trace"},
    derived={"predicted_answer": "content"},
    check=_complaint,
)

# Key of the file's metadata: how many requests were never answered.
_FAILED = b"introspect.failed"


def save_rollouts(rollouts: Iterable[Rollout], path: str | Path, failed: int = 0) -> None:
    """Write rollouts as Parquet, in the given order; a crash never leaves half a file.

    Args:
        rollouts: of a run.
        path: of the file.
        failed: requests of the run that were never answered, kept beside the rollouts.

    Raises:
        InputError: there are no rollouts, or one is given twice.
    """
    rollouts = list(rollouts)
    if not rollouts:
        raise InputError(f"{path}: there are no rollouts to save")
    ROLLOUTS.write(path, rollouts, {_FAILED: str(failed)})


def load_rollouts(path: str | Path, limit: int | None = None) -> list[Rollout]:
    """Read the rollouts of a Parquet file, in the file's order; with a limit, only so many from its beginning.

    Raises:
        InputError: the file holds no rollouts, or see `core.parquet.Table.read`.
    """
    rollouts = ROLLOUTS.read(path, limit)
    if not rollouts:
        raise InputError(f"{path}: holds no rollouts")
    return rollouts


def failed_requests(path: str | Path) -> int:
    """Read how many requests of a saved run were never answered; 0 for a file that does not say."""
    import pyarrow.parquet as pq

    metadata = pq.read_schema(path).metadata or {}
    return int(metadata.get(_FAILED, b"0"))
