"""Export stored responses as a table: Parquet, or a Hugging Face data set on disk."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from introspect.chat.protocol import FINISHED, extract_answer, join_reasoning
from introspect.chat.store.database import ResponseStore
from introspect.core.errors import InputError
from introspect.core.parquet import Table


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A row of an export. The first seven columns are named as in the published rollouts.

    Attributes:
        sample_id: id of the example; of the request, if it has none.
        rollout_id: number of the draw, from 1.
        prompt: messages as JSON.
        response: the whole turn, with its think block.
        valid: whether the turn ended by itself.
        reasoning_trace: the think block.
        predicted_answer: between the tags of the content.
        content: what follows the think block.
        finish_reason: of the server.
        prompt_tokens: of the request.
        reasoning_tokens: of the think block.
        completion_tokens: of the whole turn.
        model: name of the model.
        sampling: settings as JSON.
        key: in the store.
        created: time of the response.
    """

    sample_id: str
    rollout_id: int
    prompt: str
    response: str
    valid: bool
    reasoning_trace: str
    predicted_answer: str
    content: str
    finish_reason: str
    prompt_tokens: int
    reasoning_tokens: int
    completion_tokens: int
    model: str
    sampling: str
    key: str
    created: str


RESPONSES = Table(StoredResponse, "responses")


def export(store: ResponseStore, path: str | Path, model: str | None = None) -> int:
    """Write one `StoredResponse` per response, in order of the key and in constant memory.

    Args:
        store: the store.
        path: a file `*.parquet`, or a folder for `datasets.load_from_disk`, which must not exist.
        model: only responses of the model of this name (`model` of its identity); None exports all.

    Returns:
        The number of responses.

    Raises:
        InputError: there are no such responses, or the folder exists.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return _write_parquet(store, path, model)
    if path.exists():
        raise InputError(f"{path}: exists already; give a folder that does not, or a file *.parquet")
    from datasets import Dataset

    with tempfile.TemporaryDirectory(prefix="introspect-export-") as folder:
        file = Path(folder) / "responses.parquet"
        count = _write_parquet(store, file, model)
        Dataset.from_parquet(str(file), cache_dir=folder).save_to_disk(path)
    return count


def _write_parquet(store: ResponseStore, path: Path, model: str | None) -> int:
    rows = _rows(store, model)
    first = next(rows, None)
    if first is None:
        of = "" if model is None else f" of model {model}"
        raise InputError(f"{store.path}: no responses{of}; those here are of {', '.join(store.models()) or 'none'}")
    return RESPONSES.write(path, chain([first], rows))


def _rows(store: ResponseStore, model: str | None) -> Iterator[StoredResponse]:
    for row in store.rows(model):
        request, identity = json.loads(row["request"]), json.loads(row["model"])
        yield StoredResponse(
            sample_id=request["example"] or request["id"],
            rollout_id=request["sample"] + 1,
            prompt=json.dumps(request["messages"], ensure_ascii=False),
            response=join_reasoning(row["reasoning"], row["content"]),
            valid=row["finish_reason"] in FINISHED,
            reasoning_trace=row["reasoning"],
            predicted_answer=extract_answer(row["content"]),
            content=row["content"],
            finish_reason=row["finish_reason"],
            prompt_tokens=row["prompt_tokens"],
            reasoning_tokens=row["reasoning_tokens"],
            completion_tokens=row["completion_tokens"],
            model=identity.get("model", ""),
            sampling=json.dumps(request["sampling"]),
            key=row["key"],
            created=row["created"],
        )
