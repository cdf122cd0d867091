from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from introspect.core.errors import InputError
from introspect.vision.datasets.files import ImageFolders, groups_below

# Terrier and poodle are dogs, a husky is a dog and a worker; the worker is an animal too.
PAIRS = """animal dog
animal cat
dog terrier
dog poodle

dog husky
worker husky
animal worker
cat siamese
thing cup
"""
CLASSES = ("cup", "husky", "poodle", "siamese", "terrier")


@pytest.fixture
def hierarchy(tmp_path):
    path = tmp_path / "is_a.txt"
    path.write_text(PAIRS)
    return path


def groups(classes, path, ancestors=None):
    found = groups_below(classes, path, ancestors)
    return {frozenset(name for name, group in zip(classes, found, strict=True) if group == own) for own in found}


def test_classes_of_one_parent_are_a_group_and_the_first_parent_counts(hierarchy):
    assert groups(CLASSES, hierarchy) == {
        frozenset({"husky", "poodle", "terrier"}),
        frozenset({"siamese"}),
        frozenset({"cup"}),
    }


def test_ancestors_are_found_however_far_up_and_the_first_named_wins(hierarchy):
    dogs, rest = frozenset({"husky", "poodle", "terrier"}), frozenset({"siamese"})
    assert groups(CLASSES, hierarchy, ["animal"]) == {dogs | rest, frozenset({"cup"})}
    assert groups(CLASSES, hierarchy, ["worker", "animal"]) == {
        frozenset({"husky"}),
        dogs - {"husky"} | rest,
        frozenset({"cup"}),
    }


def test_classes_below_no_ancestor_are_alone(hierarchy):
    assert groups(CLASSES, hierarchy, ["cat"]) == {frozenset({name}) for name in CLASSES}


@pytest.mark.parametrize(
    ("text", "ancestors", "message"),
    [
        (PAIRS.replace("thing cup", ""), None, r"names no parent of class cup \(1 in all\)"),
        (PAIRS, ["fish"], "data.ancestors=fish: .* has no child of it"),
        (PAIRS + "a b c\n", None, r"is_a.txt, line 11: expected parent and child, two names: 'a b c'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, ancestors, message):
    (tmp_path / "is_a.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        groups_below(CLASSES, tmp_path / "is_a.txt", ancestors)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt: cannot be read as text"):
        groups_below(CLASSES, tmp_path / "none.txt")


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("abcde")), min_size=1, max_size=12))
def test_circles_end_and_every_class_has_one_group(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("hierarchy") / "is_a.txt"
    path.write_text("".join(f"{parent} {child}\n" for parent, child in pairs))
    classes, ancestor = sorted({child for _, child in pairs}), pairs[0][0]
    assert len(groups_below(classes, path, [ancestor])) == len(classes)


def test_folders_take_their_groups_from_it(tmp_path, hierarchy):
    for name in CLASSES:
        (tmp_path / "train" / name).mkdir(parents=True)
    folders = {"name": "x", "root": tmp_path, "side": 8, "classes": 5}
    assert ImageFolders(**folders).groups == ()
    assert ImageFolders(**folders, hierarchy=hierarchy, ancestors=["dog"]).groups == (0, 1, 1, 2, 1)
    with pytest.raises(InputError, match=r"train holds 5 classes, data\.classes says 6"):
        _ = ImageFolders(**{**folders, "classes": 6}, hierarchy=hierarchy).groups
    with pytest.raises(InputError, match=r"data\.ancestors: groups are found with data\.hierarchy=FILE"):
        ImageFolders(**folders, ancestors=["dog"])
