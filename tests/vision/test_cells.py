"""The generated cells: their classes look as they should, and their truth says where."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from introspect.core.errors import InputError
from introspect.vision.cells import CELL_NAMES, draw_cells
from introspect.vision.datasets.cells import CellImages, Cells

SIDE = 96
DRAWN = draw_cells("train", 0, range(200), SIDE)
SIZES = {"train": 30, "validation": 20, "test": 20}


def truth_of(number: int) -> torch.Tensor:
    return DRAWN.truth[DRAWN.classes == number]


def test_the_truth_has_three_values_and_the_last_class_none() -> None:
    for number in range(9):
        values = truth_of(number).unique()
        assert torch.equal(values, torch.tensor([0.0, 0.4, 0.9]))
    assert not truth_of(9).any()
    assert DRAWN.images.dtype == torch.uint8
    assert DRAWN.images.shape == (200, 3, SIDE, SIDE)
    assert torch.equal(DRAWN.classes, torch.arange(200) % len(CELL_NAMES))


@pytest.mark.parametrize("number", [3, 4, 5])
def test_the_border_of_a_rectangle_has_its_colour(number: int) -> None:
    chosen = number == DRAWN.classes
    border = (truth_of(number) == 0.9)[:, None]
    colour = (DRAWN.images[chosen] * border).sum((2, 3)) / border.sum((2, 3)) / 255
    main = number - 3
    assert (colour[:, main] >= 0.595).all()
    assert (colour[:, main] <= 0.905).all()
    others = colour[:, [channel for channel in range(3) if channel != main]]
    assert (others <= 0.205).all()


def test_borders_enclose_what_is_within_them() -> None:
    """Of a round cell and a rectangle, no inner pixel touches the ground."""
    for number in (0, 3):
        truth = truth_of(number)
        inner, ground = truth == 0.4, truth == 0
        beside = torch.nn.functional.max_pool2d(ground.float()[:, None], 3, 1, 1)[:, 0] > 0
        assert (inner & beside).sum() <= 0.02 * inner.sum()


def test_bars_lie_within_the_cell_and_tails_without() -> None:
    def middle(mask: torch.Tensor) -> torch.Tensor:
        """Mean place of the pixels of a mask, [n, 2]."""
        axis = torch.arange(SIDE, dtype=torch.float32)
        count = mask.sum((1, 2)).clamp(min=1)
        return torch.stack([(mask * axis[:, None]).sum((1, 2)) / count, (mask * axis).sum((1, 2)) / count], 1)

    def distance(number: int) -> torch.Tensor:
        """Between the middle of the marks and of the rest, in radii of a disc as large as the object."""
        truth = truth_of(number)
        radius = ((truth > 0).sum((1, 2)) / np.pi).sqrt()
        return (middle(truth == 0.9) - middle(truth == 0.4)).norm(dim=1) / radius

    assert distance(1).median() < 0.3
    assert distance(2).median() < 0.3
    assert distance(6).median() > 1.0


def test_more_tails_cover_more() -> None:
    """About in proportion to their number: some lie outside the picture, and a single one must not."""
    found = {}
    for number, tails in ((6, 1), (7, 3), (8, 8)):
        share = (truth_of(number) == 0.9).float().mean((1, 2)).mean()
        found[tails] = float(share)
    assert found[1] < found[3] < found[8]
    assert 2 < found[3] / found[1] < 4.5
    assert 4.5 < found[8] / found[1] < 11


def test_the_single_tail_is_always_to_be_seen() -> None:
    truth = draw_cells("test", 3, range(6, 2000, 10), 32).truth
    assert ((truth == 0.9).float().mean((1, 2)) >= 0.003).all()


def test_geometry_in_pixels() -> None:
    """A round cell covers a disc of radius 90 to 110, stretched by 0.5 to 1.5, where it is not cut off."""
    truth = truth_of(0) > 0
    inside = ~(truth[:, 0].any(1) | truth[:, -1].any(1) | truth[:, :, 0].any(1) | truth[:, :, -1].any(1))
    areas = truth[inside].sum((1, 2)) * (512 / SIDE) ** 2
    assert (areas > 0.8 * np.pi * 90**2 * 0.5).all()
    assert (areas < 1.2 * np.pi * 110**2 * 1.5).all()


def test_three_kinds_of_ground_in_even_shares() -> None:
    images = draw_cells("train", 1, range(9, 3000, 10), 16).images  # of the class with nothing in front
    black = (images == 0).all(1).all(1).all(1)
    assert 0.25 < black.float().mean() < 0.42
    lit = images[~black].float().mean((2, 3)) / 255
    assert (lit > 0.1).all()
    assert (lit < 0.7).all()


def test_an_image_is_decided_by_seed_split_and_index_alone() -> None:
    again = draw_cells("train", 0, [197, 3, 16], SIDE)
    assert torch.equal(again.images, DRAWN.images[[197, 3, 16]])
    assert torch.equal(again.truth, DRAWN.truth[[197, 3, 16]])
    for other in (draw_cells("test", 0, range(10), SIDE), draw_cells("train", 1, range(10), SIDE)):
        assert not torch.equal(other.images, DRAWN.images[:10])


def test_another_side_draws_the_same_scene() -> None:
    fine = draw_cells("train", 0, range(40), 2 * SIDE).truth
    coarse = torch.nn.functional.max_pool2d(fine[:, None], 2)[:, 0]
    assert ((coarse > 0) == (DRAWN.truth[:40] > 0)).float().mean() > 0.97


def test_as_a_data_set() -> None:
    images = CellImages(sizes=SIZES, side=32)
    plain, explained = images.load("train"), images.explained("train")
    batch = explained.__getitems__([4, 29])
    expected = draw_cells("train", 0, [4, 29], 32)
    assert all(torch.equal(found, wanted) for found, wanted in zip(batch, expected, strict=True))
    assert [part.shape for part in plain.__getitems__([0])] == [(1, 3, 32, 32), (1,)]
    assert [part.shape for part in explained[-1]] == [(3, 32, 32), (), (32, 32)]
    assert len(plain) == len(plain.targets) == 30
    assert CellImages(sizes=SIZES, side=32).identity == images.identity
    assert CellImages(sizes=SIZES, side=32, seed=1).identity != images.identity


def test_a_large_split_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("introspect.vision.datasets.cells._KEPT", 0)
    images = CellImages(sizes=SIZES, side=32)
    data = Cells(images, "test", explained=True)
    kept = draw_cells("test", 0, range(20), 32)
    assert torch.equal(data.__getitems__([7, 2])[2], kept.truth[[7, 2]])
    assert data._kept is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 18}, "data.classes=18: cells has 10"),
        ({"side": 8}, "data.side=8: expected a whole number from 16"),
        ({"sizes": {"train": 1, "validation": 1}}, "data.sizes: test: expected train, validation and test"),
        ({"sizes": {**SIZES, "test": 0}}, "data.sizes.test=0: expected a whole number from 1"),
    ],
)
def test_impossible_settings(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CellImages(**{"sizes": SIZES, **options})
