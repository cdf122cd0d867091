"""Rows as the published training sets have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def row(**changes: Any) -> dict[str, Any]:
    """A row of mbt-r; a change to `...` removes the column."""
    values = {
        "sample_id": 1,
        "metadata": {"id": "5a7a06935542990198eaf050", "level": "hard"},
        "question": "In which city is the maker of the Gizmo based?",
        "answer": "Delft",
        "rollout_id": 1,
        "prompt": [{"content": "Where?", "role": "user"}],
        "response": "<think>\nHm.\n</think>\n\n<answer>Delft</answer>",
        "valid": True,
        "reasoning_trace": "Hm.",
        "predicted_answer": "Delft",
        "evaluation": True,
        "trace_id": 1,
        "refined_trace": "We look.\n\nThe answer is Delft.",
    }
    return {name: value for name, value in {**values, **changes}.items() if value is not ...}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    """A Parquet file of these rows."""
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path
