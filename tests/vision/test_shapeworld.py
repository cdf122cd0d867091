from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from introspect.core.errors import InputError
from introspect.vision.shapeworld.drawing import Drawn, Shapeworld, draw
from introspect.vision.shapeworld.things import CLASS_NAMES, COLORS, FAMILIES, FAMILY_NAMES, LAYERS, VOCABULARY, number

SIDE = 24


def same(left: Drawn, right: Drawn) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture(scope="module")
def drawn():
    return draw("train", 0, 0, 300, SIDE)


def layer(drawn, name, place=0):
    return drawn.pixels[:, [index for index, category in enumerate(LAYERS) if category == name][place]]


def test_shapes_and_types(drawn):
    assert (drawn.images.shape, drawn.images.dtype) == ((300, 3, SIDE, SIDE), torch.uint8)
    assert (drawn.pixels.shape, drawn.pixels.dtype) == ((300, len(LAYERS), SIDE, SIDE), torch.uint8)
    assert (drawn.classes.shape, drawn.scenes.shape) == ((300,), (300,))


@settings(max_examples=15)
@given(st.integers(0, 400), st.integers(1, 150), st.integers(0, 3))
def test_an_image_is_a_function_of_seed_and_index_alone(start, count, seed):
    whole = draw("test", seed, start, start + count, 8)
    alone = draw("test", seed, start + count - 1, start + count, 8)
    assert same(Drawn(*(part[-1:] for part in whole)), alone)


def test_seeds_and_splits_have_different_images(drawn):
    others = [draw("train", 1, 0, 300, SIDE), draw("test", 0, 0, 300, SIDE), draw("validation", 0, 0, 300, SIDE)]
    images = torch.cat([drawn.images, *(other.images for other in others)]).flatten(1)
    assert len(torch.unique(images, dim=0)) == 1200
    assert not torch.equal(drawn.scenes, others[0].scenes)


def test_classes_are_balanced_and_belong_to_families(drawn):
    counts = drawn.classes.bincount()
    assert len(counts) == len(CLASS_NAMES) == 18
    assert counts.max() - counts.min() <= 1
    assert {len(members) for members in FAMILIES.values()} == {3}


def test_masks_tell_of_the_class_and_its_family(drawn):
    family, kind = layer(drawn, "object", 0), layer(drawn, "object", 1)
    for index in range(60):
        name = CLASS_NAMES[drawn.classes[index]]
        home = next(family for family, members in FAMILIES.items() if name in members)
        assert set(kind[index].unique().tolist()) == {0, number("object", name)}
        assert set(family[index].unique().tolist()) == {0, number("object", home)}


def test_a_thing_has_the_parts_of_its_class(drawn):
    parts = layer(drawn, "part")
    for index, name in enumerate(CLASS_NAMES):
        members = next(members for members in FAMILIES.values() if name in members)
        expected = {number("part", part.name) for part in members[name]}
        found = set(parts[drawn.classes == index].unique().tolist()) - {0}
        assert found <= expected
        assert len(found) >= len(expected) - 1  # a small one may not show at this size


def test_layers_agree_with_each_other(drawn):
    thing = layer(drawn, "object") > 0
    assert torch.equal(thing, layer(drawn, "object", 1) > 0)
    assert torch.equal(thing, layer(drawn, "part") > 0)
    assert torch.equal(thing, layer(drawn, "material") > 0)
    assert not (thing & (layer(drawn, "texture") > 0)).any()
    assert (layer(drawn, "color") > 0).all()


def test_every_label_is_in_its_layer_and_is_used(drawn):
    starts, start = {}, 1
    for category, names in VOCABULARY.items():
        starts[category] = range(start, start + len(names))
        start += len(names)
    seen = {category: set() for category in VOCABULARY}
    for place, category in enumerate(LAYERS):
        seen[category] |= set(drawn.pixels[:, place].unique().tolist()) - {0}
    seen["scene"] = set(drawn.scenes.tolist())
    assert seen == {category: set(numbers) for category, numbers in starts.items()}


def test_colours_are_the_colours_that_are_seen():
    """By day, where there is neither material nor texture, a pixel is mostly nearest to its own colour."""
    drawn = draw("train", 0, 0, 200, 32)
    first = number("scene", VOCABULARY["scene"][0])
    by_day = torch.tensor([VOCABULARY["scene"][scene - first].endswith("day") for scene in drawn.scenes.tolist()])
    plain = by_day[:, None, None] & (layer(drawn, "part") == 0) & (layer(drawn, "texture") == 0)
    palette = torch.tensor(list(COLORS.values()))
    pixels = drawn.images.permute(0, 2, 3, 1)[plain].float() / 255
    nearest = torch.cdist(pixels, palette).argmin(1) + number("color", "black")
    assert (nearest == layer(drawn, "color")[plain]).float().mean() > 0.8


def test_members_of_a_family_are_more_similar_than_others():
    """By the parts that they have."""
    names = {name: {part.name for part in parts} for members in FAMILIES.values() for name, parts in members.items()}
    family = {name: home for home, members in FAMILIES.items() for name in members}

    def likeness(one, other):
        return len(names[one] & names[other]) / len(names[one] | names[other])

    pairs = [(one, other) for one in names for other in names if one < other]
    kin = [likeness(*pair) for pair in pairs if family[pair[0]] == family[pair[1]]]
    strangers = [likeness(*pair) for pair in pairs if family[pair[0]] != family[pair[1]]]
    assert len(FAMILY_NAMES) == 6
    assert sum(kin) / len(kin) > 5 * sum(strangers) / len(strangers)


def test_a_world_is_drawn_once():
    world = Shapeworld(split="test", size=5, seed=3, side=16)
    assert len(world) == 5
    assert world.images is Shapeworld(split="test", size=5, seed=3, side=16).images
    assert torch.equal(world.classes, torch.arange(5))
    assert same(world.drawn, draw("test", 3, 0, 5, 16))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"split": "dev", "size": 3}, "split=dev: expected train, validation, test"),
        ({"split": "test", "size": 0}, "size=0"),
        ({"split": "test", "size": 3, "side": 4}, "side=4"),
    ],
)
def test_impossible_settings(settings, complaint):
    with pytest.raises(InputError, match=complaint):
        Shapeworld(**settings)
