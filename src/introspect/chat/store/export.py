"""Stored responses as a table: Parquet, or a Hugging Face data set on disk."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from introspect.chat.protocol import FINISHED, extract_answer, join_reasoning
from introspect.chat.store.database import ResponseStore
from introspect.core.errors import InputError
from introspect.core.files import replacing

# Rows written at a time: what the export holds in memory.
_ROWS = 1000
_NUMBERS = ("rollout_id", "prompt_tokens", "reasoning_tokens", "completion_tokens")
# The first seven are columns of the published rollouts, under the names that they have there.
COLUMNS = (
    "sample_id",
    "rollout_id",
    "prompt",
    "response",
    "valid",
    "reasoning_trace",
    "predicted_answer",
    "content",
    "finish_reason",
    "prompt_tokens",
    "reasoning_tokens",
    "completion_tokens",
    "model",
    "sampling",
    "key",
    "created",
)


def export(store: ResponseStore, path: str | Path, model: str | None = None) -> int:
    """Write every response, in order of the key; how many there are.

    One row per response: `sample_id` is the id of its example (of its request, where none is known), `rollout_id` the
    number of the draw from 1, `prompt` the messages as JSON, `response` the whole turn with its think block, `valid`
    whether it ended by itself. Takes constant memory.

    Args:
        store: what is exported.
        path: a file `*.parquet`, or a folder for `datasets.load_from_disk`, which must not exist.
        model: only responses of the model of this name (`model` of their identity).

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
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = dict.fromkeys(COLUMNS, pa.string()) | dict.fromkeys(_NUMBERS, pa.int64()) | {"valid": pa.bool_()}
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])
    count = 0
    with replacing(path) as partial:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            rows = _rows(store, model)
            while batch := list(islice(rows, _ROWS)):
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                count += len(batch)
        if not count:
            of = "" if model is None else f" of model {model}"
            raise InputError(f"{store.path}: no responses{of}; those here are of {', '.join(store.models()) or 'none'}")
    return count


def _rows(store: ResponseStore, model: str | None) -> Iterator[Mapping[str, Any]]:
    for row in store.rows(model):
        request, identity = json.loads(row["request"]), json.loads(row["model"])
        yield {
            "sample_id": request["example"] or request["id"],
            "rollout_id": request["sample"] + 1,
            "prompt": json.dumps(request["messages"], ensure_ascii=False),
            "response": join_reasoning(row["reasoning"], row["content"]),
            "valid": row["finish_reason"] in FINISHED,
            "reasoning_trace": row["reasoning"],
            "predicted_answer": extract_answer(row["content"]),
            "content": row["content"],
            "finish_reason": row["finish_reason"],
            "prompt_tokens": row["prompt_tokens"],
            "reasoning_tokens": row["reasoning_tokens"],
            "completion_tokens": row["completion_tokens"],
            "model": identity.get("model", ""),
            "sampling": json.dumps(request["sampling"]),
            "key": row["key"],
            "created": row["created"],
        }
