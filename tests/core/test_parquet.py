from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from introspect.core.errors import InputError
from introspect.core.parquet import Table, write_columns, write_rows


@dataclass(frozen=True, slots=True)
class Wheel:
    side: Literal["left", "right"]
    spokes: int


@dataclass(frozen=True, slots=True)
class Cart:
    name: str
    load: int
    is_sold: bool
    words: tuple[str, ...]
    wheels: tuple[Wheel, ...] = ()
    spare: Wheel | None = None

    @property
    def label(self) -> str:
        return f"{self.name}!"


def too_heavy(cart: Cart) -> str | None:
    return "column 'load' is more than a cart holds" if cart.load > 9 else None


CARTS = Table(Cart, "carts", key=("name",), names={"load": "weight"}, derived={"label": "name"}, check=too_heavy)
ONE = Cart("a", 1, False, ("x", "y"), (Wheel("left", 8), Wheel("right", 9)), Wheel("left", 1))
TWO = Cart("b", 2, True, ())


def written(path: Path, **changes: Any) -> Path:
    CARTS.write(path, [ONE, TWO])
    columns = {name: pq.read_table(path)[name] for name in pq.read_schema(path).names}
    columns |= {name: pa.array(values) for name, values in changes.items() if values is not None}
    pq.write_table(pa.table({name: c for name, c in columns.items() if changes.get(name, 0) is not None}), path)
    return path


def test_columns_and_types_are_those_of_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "new/carts.parquet"
    assert CARTS.write(path, [ONE, TWO], {b"words": "kept"}) == 2
    assert CARTS.read(path) == [ONE, TWO]
    assert CARTS.read(path, limit=1) == [ONE]
    schema = pq.read_schema(path)
    assert schema.metadata[b"words"] == b"kept"
    assert [(field.name, str(field.type), field.nullable) for field in schema] == [
        ("name", "string", False),
        ("label", "string", False),
        ("weight", "int64", False),
        ("is_sold", "bool", False),
        ("words", "list<element: string not null>", False),
        ("wheels", "string", False),
        ("spare", "string", True),
    ]
    assert pq.read_table(path)["label"].to_pylist() == ["a!", "b!"]
    assert pq.read_table(path)["spare"].to_pylist() == ['{"side": "left", "spokes": 1}', None]
    assert [file.name for file in path.parent.iterdir()] == ["carts.parquet"]


def test_a_column_that_may_be_missing_and_one_that_is_not_ours(tmp_path: Path) -> None:
    path = written(tmp_path / "carts.parquet", spare=None, wheels=None, label=None, more=[1, 2])
    assert CARTS.read(path) == [Cart("a", 1, False, ("x", "y")), TWO]
    assert CARTS.read(written(path, spare=[None, None]))[0].spare is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"weight": None}, "column 'weight' is missing; carts have name, weight, is_sold, words, wheels, spare"),
        ({"weight": ["1", "2"]}, "column 'weight' holds string, expected integers"),
        ({"is_sold": [1, 0]}, "column 'is_sold' holds int64, expected true or false"),
        ({"words": ["x", "y"]}, "column 'words' holds string, expected lists of strings"),
        ({"words": [["x"], [None]]}, "row 1: column 'words' has an empty element, expected strings"),
        ({"name": ["a", None]}, "row 1: column 'name' is empty, expected strings"),
        ({"name": ["a", "a"]}, "row 1: name 'a' is there twice"),
        ({"weight": [1, 10]}, "row 1: column 'load' is more than a cart holds"),
        ({"spare": [None, "{"]}, 'row 1: column \'spare\' is no JSON object of {"side", "spokes"}'),
        ({"spare": [None, '{"side": "top", "spokes": 1}']}, "row 1: column 'spare' is no JSON object"),
        ({"spare": [None, '{"side": "left", "spokes": true}']}, "row 1: column 'spare' is no JSON object"),
        ({"wheels": ["[]", '{"side": "left", "spokes": 1}']}, "row 1: column 'wheels' is no JSON list of"),
        ({"wheels": ["[]", '[{"side": "left"}]']}, "row 1: column 'wheels' is no JSON list of"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    path = written(tmp_path / "carts.parquet", **changes)
    with pytest.raises(InputError, match=f"^{re.escape(f'{path}: {complaint}')}") as error:
        CARTS.read(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file of carts"):
        CARTS.read(tmp_path / "carts.parquet")
    (tmp_path / "carts.parquet").write_text("no")
    with pytest.raises(InputError, match="not a readable Parquet file of carts"):
        CARTS.read(tmp_path / "carts.parquet")


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "carts.parquet"
    CARTS.write(path, [ONE])
    with pytest.raises(InputError, match="row 1: name 'a' is there twice"):
        CARTS.write(path, [ONE, ONE])
    assert CARTS.read(path) == [ONE]
    assert [*tmp_path.iterdir()] == [path]


def test_many_rows_come_in_batches_and_in_order(tmp_path: Path) -> None:
    schema = pa.schema([("number", pa.int64())])
    assert write_rows(tmp_path / "rows.parquet", schema, ({"number": n} for n in range(2500))) == 2500
    assert pq.read_table(tmp_path / "rows.parquet")["number"].to_pylist() == list(range(2500))
    assert pq.read_metadata(tmp_path / "rows.parquet").num_row_groups == 3


def test_columns_keep_the_types_of_their_values(tmp_path: Path) -> None:
    columns = {"a": torch.tensor([1.5, 2]), "b": ["x", "y"], "c": np.arange(2, dtype=np.int32), "d": [1, 2]}
    write_columns(tmp_path / "columns.parquet", **columns)
    schema = pq.read_schema(tmp_path / "columns.parquet")
    assert [str(field.type) for field in schema] == ["float", "string", "int32", "int64"]
