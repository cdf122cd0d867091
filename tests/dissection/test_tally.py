"""Counting, against a transcription of the definition pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from introspect.dissection.tally import Annotation, Counts, Masks, _above, _bands, active_pixels, add, iou

LABELS, CATEGORIES = 7, 3
PRIMARY = torch.tensor([2, 0, 0, 1, 1, 2, 2])


def counted(maps: Tensor, limits: Tensor, images: list[tuple[Tensor, tuple[int, ...]]], presence: str) -> Counts:
    counts = Counts.zeros(maps.shape[1], LABELS, CATEGORIES)
    add(counts, maps, limits, Masks.of([Annotation.of(*image) for image in images]), PRIMARY, presence)
    return counts


def slow(maps: Tensor, limits: Tensor, images: list[tuple[Tensor, tuple[int, ...]]], presence: str) -> Counts:
    counts = Counts.zeros(maps.shape[1], LABELS, CATEGORIES)
    for image, (layers, scalars) in zip(maps, images, strict=True):
        size = layers.shape[1:]
        everywhere = torch.ones(size, dtype=torch.bool)
        for label in range(1, LABELS):
            counts.label_pixels[label] += (layers == label).sum() + scalars.count(label) * everywhere.sum()
        large = F.interpolate(image[None].double(), size, mode="bilinear", align_corners=False)[0]
        for unit in range(len(image)):
            mask = large[unit] > limits[unit]
            if not image[unit].max() > limits[unit]:
                continue
            counts.areas[unit] += mask.sum()
            where = mask if presence == "lite" else everywhere
            present = {int(PRIMARY[label]) for label in layers[:, where].unique() if label} | {
                int(PRIMARY[label]) for label in scalars
            }
            for category in present:
                counts.category_areas[unit, category] += mask.sum()
            for label in range(1, LABELS):
                counts.intersections[unit, label] += (layers[:, mask] == label).sum() + scalars.count(
                    label
                ) * mask.sum()
    return counts


def assert_equal(found: Counts, expected: Counts) -> None:
    for name in ("intersections", "areas", "category_areas", "label_pixels"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


sizes = st.tuples(st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=150)
@given(
    cells=sizes,
    pixels=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    layers=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    presence=st.sampled_from(["lite", "original"]),
    level=st.sampled_from([-10.0, 0.0, 0.5, 1.5, 10.0]),
    seed=st.integers(0, 2**16),
)
def test_equals_the_definition(
    cells: tuple[int, int],
    pixels: tuple[int, int],
    layers: list[int],
    presence: str,
    level: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(len(layers), 4, *cells, generator=generator)
    limits = level + torch.rand(4, generator=generator, dtype=torch.float64)
    images = [
        (
            torch.randint(LABELS, (count, *pixels), generator=generator),
            tuple(torch.randint(1, LABELS, (count % 3,), generator=generator).tolist()),
        )
        for count in layers
    ]
    assert_equal(counted(maps, limits, images, presence), slow(maps, limits, images, presence))


@given(seed=st.integers(0, 2**16))
@settings(max_examples=25)
def test_bounds_order_and_additivity(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(4, 3, 4, 4, generator=generator)
    limits = torch.zeros(3, dtype=torch.float64)
    images = [(torch.randint(LABELS, (1, 9, 9), generator=generator), (5,)) for _ in range(4)]
    whole = counted(maps, limits, images, "lite")
    back = counted(maps.flip(0), limits, images[::-1], "lite")
    halves = Counts.zeros(3, LABELS, CATEGORIES)
    for part in (slice(0, 1), slice(1, 4)):
        add(halves, maps[part], limits, Masks.of([Annotation.of(*i) for i in images[part]]), PRIMARY, "lite")
    assert_equal(whole, back)
    assert_equal(whole, halves)
    lite, original = iou(whole, PRIMARY), iou(counted(maps, limits, images, "original"), PRIMARY)
    assert (lite >= original).all()
    assert ((lite >= 0) & (lite <= 1)).all()
    assert (whole.category_areas <= whole.areas[:, None]).all()


def test_the_threshold_itself_is_not_above_it() -> None:
    maps = torch.tensor([[[[0.1, 0.1], [0.1, 0.1]]]])
    value = maps.double().max().reshape(1)
    assert len(active_pixels(maps, value, (8, 8)).pixel) == 0
    assert len(active_pixels(maps, value.nextafter(torch.tensor([0.0], dtype=torch.float64)), (8, 8)).pixel) == 64


@pytest.mark.parametrize(("cells", "pixels"), [(2, 8), (4, 16), (16, 4), (8, 8)])
def test_thresholds_that_upsampled_values_equal(cells: int, pixels: int) -> None:
    """Small whole numbers and sizes that are powers of two: all arithmetic is exact, so ties are ties."""
    generator = torch.Generator().manual_seed(cells)
    maps = torch.randint(-2, 3, (6, 5, cells, cells), generator=generator).float()
    maps[0], maps[1, :, 0] = 1.0, 2.0
    images = [(torch.randint(LABELS, (2, pixels, pixels), generator=generator), ()) for _ in range(6)]
    for limits in torch.arange(-16, 17, dtype=torch.float64).div(8)[:, None].expand(-1, 5):
        assert_equal(counted(maps, limits, images, "lite"), slow(maps, limits, images, "lite"))


@given(
    cells=st.integers(1, 9),
    pixels=st.integers(1, 40),
    unit=st.sampled_from([1.0, 2.0**-20, 2.0**-51, 2.0**-52]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=100)
def test_the_edge_is_where_looking_at_every_pixel_finds_it(cells: int, pixels: int, unit: float, seed: int) -> None:
    """Also if the ends of a strip differ by so little that rounding decides, where a division tells nothing."""
    generator = torch.Generator().manual_seed(seed)
    left, right, limit = 1 + unit * torch.randint(-4, 5, (3, 200), generator=generator).double()
    kept = torch.maximum(left, right) > limit
    left, right, limit = left[kept], right[kept], limit[kept]
    bands = _bands(cells, pixels)
    column = torch.randint(cells + 1, (len(left),), generator=generator)
    values = torch.addcmul(left[:, None], bands.weight[column], (right - left)[:, None])
    start, length = _above(left, right, limit, bands, column)
    place = torch.arange(values.shape[1])
    assert torch.equal((place >= start[:, None]) & (place < (start + length)[:, None]), values > limit[:, None])


def test_a_map_that_is_no_number_is_never_active() -> None:
    maps = torch.full((1, 2, 3, 3), torch.nan)
    maps[:, 1] = 1.0
    active = active_pixels(maps, torch.zeros(2).double(), (4, 4))
    assert active.unit.tolist() == [1]
    assert sorted(active.pixel.tolist()) == list(range(16))


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_the_same_in_32_and_64_bits(monkeypatch: pytest.MonkeyPatch, kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    maps = torch.randn(3, 4, 5, 5, generator=generator)
    limits = torch.full((4,), 0.5, dtype=torch.float64)
    images = [(torch.randint(LABELS, (2, 14, 14), generator=generator), ()) for _ in range(3)]
    monkeypatch.setattr("introspect.dissection.tally._numbers", lambda *_: kind)
    assert active_pixels(maps, limits, (14, 14)).pixel.dtype == kind
    assert_equal(counted(maps, limits, images, "lite"), slow(maps, limits, images, "lite"))


def test_a_threshold_between_two_float32_numbers() -> None:
    above = torch.tensor(0.1)
    below = above.nextafter(torch.tensor(0.0))
    between = ((above.double() + below.double()) / 2).reshape(1)
    maps = torch.stack([below, above]).view(2, 1, 1, 1)
    assert active_pixels(maps, between, (2, 2)).pixel.tolist() == [4, 5, 6, 7]


def test_nothing_active_counts_labels_only() -> None:
    counts = counted(torch.zeros(1, 2, 3, 3), torch.ones(2).double(), [(torch.full((1, 4, 4), 3), (5,))], "lite")
    assert counts.intersections.sum() == counts.areas.sum() == counts.category_areas.sum() == 0
    assert counts.label_pixels.tolist() == [0, 0, 0, 16, 0, 16, 0]
    assert iou(counts, PRIMARY).sum() == 0


@pytest.mark.parametrize(("side", "itemsize"), [(16, 1), (20, 2), (200, 4)])
def test_many_combinations_of_labels_in_one_image(side: int, itemsize: int) -> None:
    total = side * side
    annotation = Annotation.of(torch.arange(total).view(1, side, side), ())
    assert annotation.pixels.dtype.itemsize == itemsize
    counts = Counts.zeros(1, total, 1)
    masks = Masks.of([annotation])
    add(counts, torch.ones(1, 1, 2, 2), torch.zeros(1).double(), masks, torch.zeros(total).long(), "lite")
    assert counts.intersections[0].tolist() == [0] + [1] * (total - 1)
    assert counts.label_pixels.tolist() == [0] + [1] * (total - 1)


def test_a_combination_keeps_the_labels_of_every_layer() -> None:
    pixels = torch.tensor([[[0, 5, 5]], [[0, 0, 0]], [[3, 0, 5]]])
    annotation = Annotation.of(pixels, (6,))
    assert annotation.labels[annotation.pixels].tolist() == [[0, 0, 3], [5, 0, 0], [5, 0, 5]]
    assert annotation.labels[0].tolist() == [0, 0, 0]
    assert annotation.counts[annotation.pixels].tolist() == [1, 1, 1]


def test_too_many_combinations_for_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(6, 8, 5, 5, generator=generator)
    limits = torch.full((8,), 1.5, dtype=torch.float64)
    images = [(torch.randint(LABELS, (3, 14, 14), generator=generator), (5,)) for _ in range(6)]
    expected = counted(maps, limits, images, "lite")
    monkeypatch.setattr(torch, "bincount", _limited(torch.bincount, most=300))
    monkeypatch.setattr("introspect.dissection.tally._TABLE", 0)
    assert_equal(counted(maps, limits, images, "lite"), expected)


def _limited(function: Callable[..., Tensor], most: int) -> Callable[..., Tensor]:
    """A function that must not make a large table."""

    def limited(*args: Tensor, minlength: int) -> Tensor:
        assert minlength <= most
        return function(*args, minlength=minlength)

    return limited


@pytest.mark.gpu
def test_the_same_on_a_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(5, 8, 7, 7, generator=generator)
    limits = torch.full((8,), 1.2, dtype=torch.float64)
    images = [(torch.randint(LABELS, (2, 112, 112), generator=generator), (5, 3)) for _ in range(5)]
    expected = counted(maps, limits, images, "lite")
    counts = Counts.zeros(8, LABELS, CATEGORIES, "cuda")
    masks = Masks.of([Annotation.of(*image) for image in images]).to("cuda")
    add(counts, maps.cuda(), limits.cuda(), masks, PRIMARY.cuda(), "lite")
    assert_equal(counts.cpu(), expected)
