"""Broden's files: what is read, and what is said about files that are wrong."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from introspect.core.errors import InputError
from introspect.dissection.concepts.base import ConceptDataset, primary_categories
from introspect.dissection.concepts.broden import Broden


def write_broden(root: Path) -> Path:
    """Three images of 8 x 6, masks of 4 x 3 (height x width); label 300 needs the green channel."""
    (root / "images/a").mkdir(parents=True)
    for name in ("one", "two", "three"):
        Image.new("RGB", (6, 8), (10, 20, 30)).save(root / f"images/a/{name}.png")
    Image.new("L", (6, 8), 7).save(root / "images/a/gray.png")
    for name, label in (("m300", 300), ("m2", 2)):
        mask = np.zeros((4, 3, 3), np.uint8)
        mask[0, :, 0], mask[0, :, 1] = label % 256, label // 256
        Image.fromarray(mask).save(root / f"images/a/{name}.png")
    (root / "index.csv").write_text(
        "image,split,ih,iw,sh,sw,object,scene\n"
        "a/one.png,train,8,6,4,3,a/m300.png;a/m2.png,5\n"
        "a/two.png,val,8,6,4,3,2;a/m300.png,\n"
        "a/three.png,val,8,6,4,3,,\n"
        "a/gray.png,val,8,6,4,3,,5;6\n"
    )
    (root / "category.csv").write_text("name,first,last,count,frequency\nobject,2,300,2,3\nscene,5,6,2,3\n")
    (root / "label.csv").write_text(
        "number,name,category,frequency,coverage,syns\n"
        "2,tree,object(2);scene(1),2,1,\n300,car,object(2),2,1,\n5,street-s,scene(2),2,2,\n6,park-s,scene(1),1,1,\n"
    )
    (root / "c_object.csv").write_text("code,number,name,frequency,coverage\n1,2,tree,2,1e-1\n2,300,car,2,1\n")
    (root / "c_scene.csv").write_text(
        "code,number,name,frequency,coverage\n1,5,street-s,2,2\n2,6,park-s,1,1\n3,2,tree,1,0.1\n"
    )
    return root


def test_what_is_read(tmp_path: Path) -> None:
    broden = Broden(write_broden(tmp_path))
    assert isinstance(broden, ConceptDataset)
    assert broden.categories == ("object", "scene")
    assert len(broden.labels) == 301
    assert broden.labels[300] == (300, "car", "object")
    assert broden.labels[2] == (2, "tree", "scene")  # of equal coverages the last category wins
    assert broden.labels[7] == (7, "", "scene")
    assert len(broden) == 3  # one image has no label
    first = broden[0]
    assert (first.name, first.scalars) == ("a/one.png", (5,))
    assert first.image.shape == (3, 8, 6)
    assert first.image[:, 0, 0].tolist() == [10, 20, 30]
    assert first.pixels.dtype == torch.int32
    assert first.pixels.tolist() == [[[300] * 3, *[[0] * 3] * 3], [[2] * 3, *[[0] * 3] * 3]]
    assert broden[1].pixels.tolist() == [[[2] * 3] * 4, [[300] * 3, *[[0] * 3] * 3]]  # a number beside a mask
    gray = broden[2]
    assert (gray.pixels.shape, gray.scalars) == ((0, 4, 3), (5, 6))
    assert gray.image[:, 0, 0].tolist() == [7, 7, 7]


def test_choices(tmp_path: Path) -> None:
    root = write_broden(tmp_path)
    objects = Broden(root, categories=["object"])
    assert objects.categories == ("object",)
    assert [objects[i].name for i in range(len(objects))] == ["a/one.png", "a/two.png"]
    assert Broden(root, categories="object").categories == ("object",)
    assert Broden(root, categories=["scene", "object"]).categories == ("object", "scene")
    assert [item.name for item in (Broden(root, split="val")[i] for i in range(2))] == ["a/two.png", "a/gray.png"]
    assert len(Broden(root, limit=1)) == 1
    assert len(pickle.loads(pickle.dumps(objects))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"categories": ["object", "material"]}, r"category.csv has no category material: it has object, scene"),
        (
            {"categories": "obj"},
            r"category.csv has no category obj: it has object, scene",
        ),
        ({"categories": []}, r"concepts.categories: name at least one, or null for all"),
        ({"limit": 0}, r"concepts.limit=0: expected a whole number from 1"),
        ({"limit": 2.5}, r"concepts.limit=2.5: expected a whole number from 1"),
        (
            {"split": "test"},
            r"index.csv: no image has a label of object, scene in the split test \(there is train, val\)",
        ),
    ],
)
def test_choices_that_are_not_there(options: dict, message: str, tmp_path: Path) -> None:
    root = write_broden(tmp_path)
    with pytest.raises(InputError, match=message):
        Broden(root, **options)


@pytest.mark.parametrize("name", ["index.csv", "category.csv", "label.csv", "c_scene.csv"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    root = write_broden(tmp_path)
    (root / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        Broden(root)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"concepts.root=.*nowhere: no such folder"):
        Broden(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("index.csv", ",scene\n", ",place\n", "index.csv: has no column scene"),
        ("index.csv", "4,3,,5;6", "4,3,,7", r"index.csv, row 5, column 'scene': label 7 is not in label.csv"),
        ("index.csv", "8,6,4,3,2;", "8,6,x,3,2;", r"index.csv, row 3, column 'sh': expected a number, got 'x'"),
        ("index.csv", "8,6,4,3,2;", "8,6,0,3,2;", r"index.csv, row 3, column 'sh': a mask of 0 x 3 pixels"),
        ("index.csv", ",5;6", "", r"index.csv, row 5: expected 8 cells"),
        ("index.csv", ",5;6", ",5;6,7", r"index.csv, row 5: expected 8 cells"),
        ("label.csv", "300,car", "2,car", r"label.csv, row 3, column 'number': label 2 is there already, as 'tree'"),
        ("label.csv", "300,car", "x,car", r"label.csv, row 3, column 'number': expected a number, got 'x'"),
        ("label.csv", "2,tree", "2,", r"label.csv, row 2, column 'name': is empty"),
        ("c_object.csv", "2,300,car", "2,301,car", r"c_object.csv, row 3, column 'number': label 301 is not in"),
        ("c_object.csv", "car,2,1", "car,2,nan", r"c_object.csv, row 3, column 'coverage': expected a number from 0"),
    ],
)
def test_an_inconsistent_file_is_named(name: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    root = write_broden(tmp_path)
    text = (root / name).read_text()
    assert text.count(old) == 1
    (root / name).write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        Broden(root)


def test_bad_images_are_named(tmp_path: Path) -> None:
    root = write_broden(tmp_path)
    broden = Broden(root)
    shutil.copy(root / "images/a/one.png", root / "images/a/m2.png")
    with pytest.raises(InputError, match=r"index.csv, row 2: a/m2.png is 8 x 6 pixels, sh and sw say 4 x 3"):
        broden[0]
    Image.fromarray(np.full((4, 3, 3), 2, np.uint8)).save(root / "images/a/m2.png")
    with pytest.raises(InputError, match=r"index.csv, row 2: a/m2.png has the label 514, which is not in label.csv"):
        broden[0]
    for label in (7, 65535):  # below label 300 and above it, both unused
        Image.fromarray(np.full((4, 3, 3), [label % 256, label // 256, 0], np.uint8)).save(root / "images/a/m2.png")
        with pytest.raises(InputError, match=rf"row 2: a/m2.png has the label {label}, which is not in label.csv"):
            broden[0]
    (root / "images/a/m2.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"index.csv, row 2: .*m2.png cannot be read"):
        broden[0]
    (root / "images/a/gray.png").unlink()
    with pytest.raises(InputError, match=r"index.csv, row 5: there is no file .*gray.png"):
        broden[2]


def test_the_primary_category_covers_most() -> None:
    coverage = {"object": {1: 2.0, 2: 1.0, 3: 1.0}, "part": {2: 1.0, 3: 0.5}}
    assert primary_categories(5, ["object", "part"], coverage).tolist() == [1, 0, 1, 0, 1]
