"""Stability: Jaccard indices by hand, their properties, and both commands."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.app import dissect
from introspect.cli import check
from introspect.core.errors import InputError
from introspect.dissection.__main__ import main
from introspect.dissection.engine import dissect_activations
from introspect.dissection.files import save
from introspect.dissection.measures.stability import Stability, StabilityResult, concepts_of, jaccard
from introspect.dissection.result import Dissection
from introspect.vision.networks import Network
from tests.composing import compose_config
from tests.dissection.made import Made
from tests.dissection.measures.made import checkpoint
from tests.dissection.test_engine import Known, raw, world

pytest.importorskip("matplotlib", reason="an extra that only figures need")
CONCEPTS = st.frozensets(st.tuples(st.sampled_from("abcdef"), st.just("object")))


def detecting(*numbers: int) -> Dissection:
    """A layer with a unit for each of these labels, which lie in the four quarters of an image."""
    masks = torch.arange(1, 5).view(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
    concepts = Made([masks[None]] * 2)
    maps = torch.stack([(masks == number).float() for number in numbers])
    return dissect_activations(
        maps.expand(2, -1, -1, -1), concepts, quantile=0.25, thresholds=torch.full([len(numbers)], 0.5)
    )


def test_numbers_by_hand() -> None:
    group = (detecting(1, 2, 2), detecting(2, 3), detecting(2, 4, 3, 3))
    assert concepts_of(group[0]) == {("object-1", "object"), ("object-2", "object")}
    found = StabilityResult({"seeds": group}).summary("seeds")
    assert found["total"] == 3
    assert found["total_deviation"] == 1
    assert found["unique"] == pytest.approx(7 / 3)
    # {1, 2} and {2, 3}: 1/3; {1, 2} and {2, 3, 4}: 1/4; {2, 3} and {2, 3, 4}: 2/3. In all: 2, of four.
    assert found["jaccard"] == pytest.approx((1 / 3 + 1 / 4 + 2 / 3) / 3)
    assert found["always"] == 0.25
    assert "to_all" not in found


def test_a_subset_next_to_all_images() -> None:
    groups = {"1": (detecting(1), detecting(3)), "2": (detecting(1, 2),)}
    assert "to_all" not in StabilityResult(groups).summary("1")  # two images need not be all
    result = StabilityResult(groups, whole="2")
    assert result.summary("1")["to_all"] == pytest.approx((1 / 2 + 0) / 2)
    assert result.summary("1")["jaccard"] == 0
    assert set(result.summary("2")) == {"total", "unique"}
    assert result.metrics()["dissect/stability/2/total"] == 2
    table = result.tables()["concepts"]
    assert list(zip(table["group"], table["concept"], table["detected"], strict=True)) == [
        ("1", "object-1", 1),
        ("1", "object-3", 1),
        ("2", "object-1", 1),
        ("2", "object-2", 1),
    ]


def test_without_any_concept_there_is_no_index() -> None:
    nothing = (detecting(1), detecting(2))
    found = StabilityResult({"seeds": nothing}, threshold=1.0001).summary("seeds")
    assert found == {"total": 0, "unique": 0, "total_deviation": 0, "unique_deviation": 0}


@given(CONCEPTS, CONCEPTS)
def test_an_index_is_symmetric_bounded_and_one_of_equals(a: frozenset, b: frozenset) -> None:
    assert jaccard(a, b) == jaccard(b, a)
    assert jaccard(a, a) == (1 if a else None)
    value = jaccard(a, b)
    assert value is None or 0 <= value <= 1
    assert (value == 0) == (bool(a | b) and not a & b)


def test_dissections_of_different_kinds_are_refused() -> None:
    with pytest.raises(InputError, match="dissections of different images cannot be compared"):
        StabilityResult(
            {"seeds": (detecting(1), dissect_activations(torch.rand(3, 1, 8, 8), Made([torch.ones(1, 8, 8)] * 3)))}
        )
    with pytest.raises(InputError, match="needs at least one dissection"):
        StabilityResult({})


def test_subsets_of_the_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"quantile": 0.25, "shares": [0.5, 1], "draws": 2}
    network = Network(Known(), "Known", preprocess=raw)
    found = Stability(network=network, layer="units", concepts=world(), folder=tmp_path, **options)()
    assert found["dissect/stability/12/total"] == 4
    assert {"dissect/stability/6/jaccard", "dissect/stability/6/to_all"} <= set(found)
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    dissected = json.loads((tmp_path / "stability.json").read_text())["settings"]["dissections"]
    assert [each["images"] for each in dissected["6"] + dissected["12"]] == [6, 6, 12]
    assert "stability of concept detectors" in capsys.readouterr().out
    assert (tmp_path / "stability_counts.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": [0.5, 2]}, r"shares=\[0.5, 2\]: expected fractions"),
        ({"shares": [0.01]}, r"shares=\[0.01\]: of 12 images, the smallest has none"),
        ({"draws": 0}, "draws=0: expected a whole number from 1"),
        ({"layer": ["units", "other"]}, "measure=stability takes one layer"),
    ],
)
def test_impossible_options(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        Stability(
            network=Network(Known(), "Known", preprocess=raw),
            concepts=world(),
            folder=tmp_path,
            **{"layer": "units", **options},
        )()


def test_the_command(tmp_path: Path) -> None:
    given = ["measure=stability", "layer=layer3", f"ckpt_path={checkpoint(tmp_path, 18)}", "concepts.size=40"]
    options = ["measure.draws=2", "dissection.device=cpu", "extras.print_config=false", "logger=csv"]
    cfg = compose_config("dissect", [*given, *options], tmp_path)
    check(cfg)
    metrics = dissect(cfg)
    assert {"dissect/stability/10/total", "dissect/stability/40/unique"} <= set(metrics)


def test_saved_dissections_of_several_seeds(tmp_path: Path) -> None:
    for name, labels in (("a", (1, 2)), ("b", (2, 3))):
        save(detecting(*labels), tmp_path / name)
    main(["stability", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert found["dissect/stability/dissections/jaccard"] == pytest.approx(1 / 3)
    assert pq.read_table(tmp_path / "out/stability_concepts.parquet").num_rows == 3
    with pytest.raises(InputError, match="a folder is named twice"):
        main(["stability", str(tmp_path / "a"), str(tmp_path / "a"), "--output", str(tmp_path / "out")])
