from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.benchmarks import hotpotqa, musique, twowiki
from introspect.benchmarks.base import Benchmark
from introspect.benchmarks.hotpotqa import HotpotQA
from introspect.benchmarks.musique import MuSiQue
from introspect.benchmarks.published import held_out_part, training_part
from introspect.benchmarks.twowiki import TwoWiki
from introspect.core.errors import InputError
from tests.benchmarks.samples import (
    golden_prompt,
    golden_rows,
    hotpot_item,
    hub_folder,
    hub_row,
    musique_item,
    real_files,
    real_rows,
    twowiki_item,
    write_items,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "data"
KINDS = [(HotpotQA, hotpot_item, "_id"), (MuSiQue, musique_item, "id"), (TwoWiki, twowiki_item, "_id")]


@given(st.integers(0, 120), st.integers(0, 12))
def test_train_and_validation_share_out_the_rows(count, held_out):
    share = min(held_out, count // 10)
    rows = list(range(count))
    assert list(training_part(rows, held_out)) == rows[: count - share]
    assert list(held_out_part(rows, held_out)) == rows[count - share :]


def test_training_part_looks_no_further_ahead_than_it_must():
    read: list[int] = []

    def rows() -> Iterator[int]:
        for number in range(10_000):
            read.append(number)
            yield number

    stream = training_part(rows(), held_out=200)
    assert [next(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(read) <= 6, "of 6 rows or fewer, at most a tenth, none, can be held out"
    for _ in range(4995):
        next(stream)
    assert len(read) == 5200


@pytest.mark.parametrize(("kind", "item", "key"), KINDS)
def test_splits_limit_and_order(tmp_path, kind, item, key):
    train = write_items(tmp_path / "train", [item(**{key: f"t{n}"}) for n in range(40)], lines=True)
    test = write_items(tmp_path / "test", [item(**{key: f"d{n}"}) for n in range(4)])
    benchmark: Benchmark = kind(files={"train": str(train), "test": test}, held_out=3)
    ids = {split: [e.id for e in benchmark.load(split)] for split in ("train", "validation", "test")}
    assert ids["train"] == [f"t{n}" for n in range(37)]
    assert ids["validation"] == ["t37", "t38", "t39"]
    assert ids["test"] == ["d0", "d1", "d2", "d3"]
    assert [e.id for e in benchmark.load("train", limit=2)] == ["t0", "t1"]
    assert [e.id for e in benchmark.load("validation", limit=2)] == ["t37", "t38"]
    assert benchmark.load("test", limit=0) == []
    assert benchmark.load("test", limit=99) == benchmark.load("test")
    assert {e.benchmark for e in benchmark.load("test")} == {benchmark.name}
    paper = kind(files={"train": train}, held_out=0)
    assert len(paper.load("train")) == 40
    assert paper.load("validation") == []


@pytest.mark.parametrize(("kind", "item", "key"), KINDS)
def test_limit_spares_the_rest_of_the_file(tmp_path, kind, item, key):
    good = [item(**{key: f"t{n}"}) for n in range(30)]
    path = write_items(tmp_path / "train", [*good, {"broken": True}], lines=True)
    benchmark = kind(files={"train": path})
    assert len(benchmark.load("train", limit=5)) == 5
    with pytest.raises(InputError, match="row 31, field"):
        benchmark.load("validation")


@pytest.mark.parametrize(("kind", "item", "key"), KINDS)
def test_an_id_that_occurs_twice_is_refused(tmp_path, kind, item, key):
    path = write_items(tmp_path / "test.json", [item(**{key: "a"}), item(**{key: "b"}), item(**{key: "a"})])
    with pytest.raises(InputError, match=r"test\.json, row 3, field 'id': 'a' is also the id of row 1"):
        kind(files={"test": path}).load("test")


def test_bad_options_are_named(tmp_path):
    with pytest.raises(InputError, match="unknown key 'dev', expected 'train' or 'test'"):
        HotpotQA(files={"dev": "x.json"})
    with pytest.raises(InputError, match=r"files: expected the keys 'train' and 'test', got 'x\.json'"):
        HotpotQA(files="x.json")  # type: ignore[arg-type]
    for held_out in (-1, "many", 1.5, True):
        with pytest.raises(InputError, match="held_out: expected a whole number of at least 0"):
            HotpotQA(held_out=held_out)  # type: ignore[arg-type]
    benchmark = HotpotQA(files={"test": write_items(tmp_path / "test", [hotpot_item()])})
    with pytest.raises(InputError, match="unknown split 'dev': expected one of train, validation, test"):
        benchmark.load("dev")
    with pytest.raises(InputError, match="limit: expected a whole number of at least 0, got -1"):
        benchmark.load("test", limit=-1)
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        HotpotQA(files={"test": tmp_path / "none.json"}).load("test")


def test_without_file_and_hub_the_error_says_what_to_pass():
    with pytest.raises(InputError, match=r"files\.train is not given .* data\.files\.train=PATH"):
        HotpotQA(files={"train": None}, hub_id=None).load("validation")


def test_an_unreachable_hub_says_how_to_pass_local_files(monkeypatch):
    def unreachable(*args: object, **kwargs: object) -> None:
        asked.update(kwargs, name=args)
        raise ConnectionError("Couldn't reach the hub\nand a second line")

    asked: dict[str, object] = {}
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=unreachable))
    with pytest.raises(InputError, match="cannot load") as caught:
        HotpotQA(files={"train": "x.json"}, revision="abc").load("test")
    assert str(caught.value) == (
        "cannot load 'validation' of 'hotpotqa/hotpot_qa' (config 'distractor'): Couldn't reach the hub; "
        "pass the published file instead: data.files.test=PATH"
    )
    assert asked == {"name": ("hotpotqa/hotpot_qa", "distractor"), "split": "validation", "revision": "abc"}


def test_an_offline_hub_is_an_input_error(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(InputError, match=r"cannot load 'train' of 'nobody/nothing': .*data\.files\.train=PATH"):
        HotpotQA(hub_id="nobody/nothing", hub_config=None).load("train")


def test_blemishes_are_logged_once_per_load(tmp_path, caplog):
    items = [hotpot_item(_id=str(n), supporting_facts=[["Acme (company)", 1], ["Gizmo", 9]]) for n in range(3)]
    benchmark = HotpotQA(files={"test": write_items(tmp_path / "test", items)})
    with caplog.at_level(logging.INFO):
        benchmark.load("test")
    assert len(caplog.records) == 1
    assert f"{tmp_path / 'test'}: " in caplog.text
    assert "3 x supporting fact that points at no sentence" in caplog.text


@pytest.mark.parametrize(("kind", "item", "key"), KINDS)
def test_clean_items_are_not_worth_a_line(tmp_path, caplog, kind, item, key):
    with caplog.at_level(logging.INFO):
        kind(files={"test": write_items(tmp_path / "test", [item()])}).load("test")
    assert not caplog.records


@pytest.mark.parametrize(("name", "kind"), [("hotpotqa", HotpotQA), ("musique", MuSiQue), ("twowiki", TwoWiki)])
def test_configs_make_benchmarks_with_the_documented_defaults(tmp_path, name, kind):
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    benchmark = instantiate(config)
    assert isinstance(benchmark, kind)
    ours, theirs = benchmark, kind()
    assert (ours.hub_id, ours.hub_config, ours.revision) == (theirs.hub_id, theirs.hub_config, theirs.revision)
    assert ours.held_out == theirs.held_out == 200
    item = {kind: item for kind, item, _ in KINDS}[kind]
    config.files.test = str(write_items(tmp_path / "test", [item()]))
    assert len(instantiate(config).load("test")) == 1


def test_notes_start_afresh_with_every_load(tmp_path):
    path = write_items(tmp_path / "test", [musique_item(answerable=False), musique_item()])
    benchmark = MuSiQue(files={"test": path})
    assert Counter(len(benchmark.load("test")) for _ in range(3)) == {1: 3}


@pytest.mark.parametrize(
    ("kind", "item", "prompt"),
    [
        (HotpotQA, hotpot_item, "hotpotqa_sft"),
        (MuSiQue, musique_item, "musique_prompt"),
        (TwoWiki, twowiki_item, "2wikimultihopqa_prompt"),
    ],
)
def test_context_is_rendered_as_the_reference_renders_it(shared, tmp_path, kind, item, prompt):
    cases = golden_prompt(shared, prompt)
    assert cases
    for case in cases:
        path = write_items(tmp_path / "test", [{**item(), **case["inputs"]["row"]}])
        (example,) = kind(files={"test": path}).load("test")
        if "context" in case["output"]:
            assert example.context == case["output"]["context"]
        else:
            assert f"Documents:\n{example.context}\n" in case["output"]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("name", "tier", "synthetic"),
    [("hotpotqa", hotpotqa.tier, 4), ("musique", musique.tier, 3), ("2wikimultihopqa", twowiki.tier, 2)],
)
def test_tiers_equal_the_reference_on_every_row(shared, name, tier, synthetic):
    cases = golden_rows(shared, name)
    assert sum(case["synthetic"] for case in cases) == synthetic
    for case in cases:
        for layout in {"row", "row_raw_format"} & case.keys():
            assert tier(case[layout]) == case["tier"], case


@pytest.mark.parametrize("kind", [HotpotQA, TwoWiki])
def test_files_and_hub_give_the_same_examples(shared, tmp_path, monkeypatch, kind):
    parts = {"train": "train", "validation": "test"}
    rows = {split: [hub_row(row) for row in real_rows(shared, kind.name, part)] for split, part in parts.items()}
    hub = kind(hub_id=hub_folder(tmp_path, rows, monkeypatch, config=kind.published_at[1]))
    local = kind(files=real_files(shared, kind.name))
    for split in ("train", "validation", "test"):
        assert hub.load(split) == local.load(split)
    assert hub.load("test", limit=3) == local.load("test", limit=3)
    with pytest.raises(InputError, match=r"cannot load 'validation' of .*fullwiki"):
        kind(hub_id=str(tmp_path / "repository"), hub_config="fullwiki").load("test")
