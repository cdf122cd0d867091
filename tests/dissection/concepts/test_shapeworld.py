from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from introspect.core.errors import InputError
from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.concepts.broden import Broden
from introspect.dissection.concepts.shapeworld import ShapeworldConcepts, export
from introspect.dissection.engine import dissect
from introspect.vision.backbones import CifarResNet
from introspect.vision.shapeworld.things import VOCABULARY


class Knowing(nn.Module):
    """Puts out the mask of every label, one unit each: it has seen all images before."""

    def __init__(self, concepts: ConceptDataset) -> None:
        super().__init__()
        self.maps = {}
        for item in (concepts[index] for index in range(len(concepts))):
            units = torch.zeros(len(concepts.labels), *item.pixels.shape[1:])
            for number in range(1, len(units)):
                units[number] = 1.0 if number in item.scalars else (item.pixels == number).any(0).float()
            self.maps[item.image.numpy().tobytes()] = units
        self.units = nn.Identity()

    def forward(self, images):
        return self.units(torch.stack([self.maps[image.numpy().tobytes()] for image in images]))


def unprepared(images):
    return images


def test_it_is_a_concept_dataset():
    concepts = pickle.loads(pickle.dumps(ShapeworldConcepts(size=4, side=16)))
    assert isinstance(concepts, ConceptDataset)
    assert (len(concepts), concepts.categories) == (4, tuple(VOCABULARY))
    assert [label.number for label in concepts.labels] == list(range(len(concepts.primary)))
    image, pixels, scalars, name = concepts[2]
    assert (image.shape, image.dtype) == ((3, 16, 16), torch.uint8)
    assert (pixels.shape, pixels.dtype) == ((6, 16, 16), torch.int32)
    assert [concepts.labels[number].category for number in scalars] == ["scene"]
    assert name == "test/000002.png"
    with pytest.raises(IndexError):
        concepts[4]


def test_units_that_are_the_masks_are_dissected_to_iou_1():
    concepts = ShapeworldConcepts(size=40, side=24)
    found = dissect(Knowing(concepts), ["units"], concepts, quantile=0.6, preprocessing=unprepared, progress=False)[
        "units"
    ]
    present = found.counts.label_pixels > 0
    assert present.sum() > 70
    own = found.iou.diagonal()
    assert torch.allclose(own[present], torch.ones_like(own[present]), atol=1e-9)
    names = {detector.label for detector in found.detectors(1 - 1e-9)}
    assert names == {label.name for label in concepts.labels if present[label.number]}


@pytest.mark.parametrize(("option", "value"), [("side", 50.5), ("side", 4), ("size", 0), ("seed", "one")])
def test_impossible_numbers(option, value):
    with pytest.raises(InputError, match=rf"concepts.{option}={value}: expected a whole number from"):
        ShapeworldConcepts(**{"size": 3, option: value})


def test_an_export_is_read_back_as_it_was(tmp_path):
    concepts = ShapeworldConcepts(size=60, side=16, split="validation")
    export(concepts, tmp_path / "broden")
    read = Broden(tmp_path / "broden")
    assert (len(read), read.categories) == (60, concepts.categories)
    present = torch.zeros(len(concepts.labels), dtype=torch.bool)
    for index in range(60):
        mine, theirs = concepts[index], read[index]
        assert torch.equal(mine.image, theirs.image)
        assert (mine.scalars, mine.name) == (theirs.scalars, theirs.name)
        filled = mine.pixels.flatten(1).any(1)  # a layer without any label has no file
        assert torch.equal(mine.pixels[filled], theirs.pixels)
        present[[*mine.scalars, *mine.pixels.unique().tolist()]] = True
    present[0] = False
    assert [label.name for label in read.labels] == [label.name for label in concepts.labels]
    assert torch.equal(read.primary[present], concepts.primary[present])


def test_both_ways_give_the_same_dissection(tmp_path):
    torch.manual_seed(0)
    network, concepts = CifarResNet(8, 18), ShapeworldConcepts(size=60, side=16)
    export(concepts, tmp_path)
    one, other = (
        dissect(network, ["layer2"], source, preprocessing="imagenet", progress=False)["layer2"]
        for source in (concepts, Broden(tmp_path))
    )
    assert torch.equal(one.counts.intersections, other.counts.intersections)
    assert one.detectors(0.01) == other.detectors(0.01)


def test_categories_can_be_chosen():
    concepts = ShapeworldConcepts(size=3, side=16, categories=["scene", "part"])
    assert concepts.categories == ("part", "scene")
    assert concepts[0].pixels.shape == (1, 16, 16)
    assert {concepts.labels[int(number)].category for number in concepts[0].pixels.unique() if number} == {"part"}
    assert len(concepts[0].scalars) == 1
    assert ShapeworldConcepts(size=3, side=16, categories=["object"])[0].scalars == ()
    assert ShapeworldConcepts(size=3, side=16, categories="part").categories == ("part",)
    with pytest.raises(InputError, match=r"concepts.categories=smell: shapeworld has color, object"):
        ShapeworldConcepts(size=3, categories=["part", "smell"])
    with pytest.raises(InputError, match="name at least one"):
        ShapeworldConcepts(size=3, categories=[])


def test_an_export_overwrites_nothing(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="is not empty"):
        export(ShapeworldConcepts(size=1, side=16), tmp_path)
