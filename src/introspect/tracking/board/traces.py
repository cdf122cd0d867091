"""The rollouts of a run as the trace viewer shows them: in phases, with the first mention of the answer highlighted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from introspect.core.errors import InputError, first_line
from introspect.evaluation.outcomes import outcome
from introspect.evaluation.rollouts import Rollout, load_rollouts
from introspect.oracle.phases import Passage, arrival, passages, phases_present

PHASES = 5


@dataclass(frozen=True, slots=True)
class Side:
    """Rollouts of one model.

    Attributes:
        rows: the rollouts that are shown, as the page's script reads them.
        total: rollouts in the file.
        presence: fraction of the shown rollouts with each phase, by wording.
    """

    rows: Sequence[Mapping[str, Any]]
    total: int
    presence: tuple[float, ...]


def read_side(folder: Path, side: str, limit: int) -> Side | None:
    """Return the first rollouts of a run's `rollouts/<side>.parquet`, with their judgments; None without that file.

    Raises:
        InputError: the rollouts or judgments cannot be read.
    """
    path = folder / "rollouts" / f"{side}.parquet"
    if not path.is_file():
        return None
    import pyarrow.parquet as pq

    rollouts = load_rollouts(path, limit)
    judged = _judgments(folder / "judgments" / f"{side}.parquet", rollouts)
    read = [passages(rollout.reasoning, rollout.question) for rollout in rollouts]
    present = [phases_present(parts) for parts in read]
    rows = [
        _row(r, parts, judged.get((r.example_id, r.rollout_id), {})) for r, parts in zip(rollouts, read, strict=True)
    ]
    fractions = tuple(sum(phase in each for each in present) / len(present) for phase in range(1, PHASES + 1))
    return Side(rows, pq.read_metadata(path).num_rows, fractions)


def _row(rollout: Rollout, parts: Sequence[Passage], judged: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": rollout.example_id,
        "sample": rollout.rollout_id,
        "question": rollout.question,
        "gold": list(rollout.references),
        "hops": rollout.hops,
        "answer": rollout.predicted_answer,
        "content": rollout.content,
        "outcome": outcome(rollout),
        "tokens": rollout.completion_tokens,
        "finish": rollout.finish_reason,
        "parts": list(highlighted(parts, arrival(rollout.reasoning, rollout.references))),
        "judged": dict(judged),
    }


def highlighted(parts: Iterable[Passage], span: tuple[int, int] | None) -> Iterator[tuple[int, str, int]]:
    """Yield the passages as (phase, text, 1 inside the span, else 0), cut where the span begins and ends.

    Args:
        parts: the passages of a trace.
        span: the characters that name the answer, from and to.
    """
    start, end = span or (-1, -1)
    place = 0
    for part in parts:
        cuts = [min(max(cut - place, 0), len(part.text)) for cut in (0, start, end, place + len(part.text))]
        for is_answer, (first, last) in enumerate(pairwise(cuts)):
            if last > first:
                yield part.phase, part.text[first:last], int(is_answer == 1)
        place += len(part.text)


def _judgments(path: Path, rollouts: Sequence[Rollout]) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the judgments of these rollouts, by judge; replies that could not be parsed are left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return {}
    ids = sorted({rollout.example_id for rollout in rollouts})
    wanted = [("example_id", "in", ids), ("judge", "in", ["rrp", "mqi"]), ("outcome", "=", "parsed")]
    found: dict[tuple[str, int], dict[str, Any]] = {}
    try:
        for row in pq.read_table(path, filters=wanted).to_pylist():
            key = (row["example_id"], row["rollout_id"])
            found.setdefault(key, {})[row["judge"]] = json.loads(row["judgment"])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: is not a file of judgments: {first_line(error)}") from error
    return found
