"""The engine: what is true is found, controls find chance, and mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from introspect.core.errors import InputError
from introspect.dissection import engine
from introspect.dissection.concepts.broden import Broden
from introspect.dissection.engine import dissect, dissect_activations
from introspect.vision.preprocessing import preprocessing
from tests.dissection.concepts.test_broden import write_broden
from tests.dissection.made import Made


class Known(nn.Module):
    """Its unit n is 1 exactly where the image shows label n + 1 (its red), on the grid of the image."""

    def __init__(self, labels: int = 4) -> None:
        super().__init__()
        self.labels = labels
        self.units = nn.Identity()
        self.unused = nn.Identity()
        self.last = nn.Linear(labels, 2)

    def forward(self, x: Tensor) -> Tensor:
        number = torch.arange(1, self.labels + 1, device=x.device)[:, None, None]
        return self.last(self.units((x[:, :1] == number).float()).mean((2, 3)))


def world(images: int = 12, side: int = 16, seed: int = 0) -> Made:
    """Images of four labels in rectangles that do not overlap, each label in few cells."""
    generator = torch.Generator().manual_seed(seed)
    masks = []
    for _ in range(images):
        mask = torch.zeros(1, side, side)
        for quarter in range(4):
            y, x = 8 * (quarter // 2), 8 * (quarter % 2)
            height, width = torch.randint(1, 7, (2,), generator=generator).tolist()
            mask[0, y : y + height, x : x + width] = torch.randint(1, 5, (1,), generator=generator)
        masks.append(mask)
    shown = [torch.cat([mask, 0 * mask, 0 * mask]).byte() for mask in masks]
    return Made(masks, categories={"object": [1, 2], "part": [3, 4]}, images=shown)


def raw(images: Tensor) -> Tensor:
    return images.float()


def test_units_that_are_masks_have_iou_one() -> None:
    found = dissect(Known(), ["units"], world(), quantile=0.5, preprocessing=raw, examples=3, progress=False)["units"]
    assert found.best.iou.numpy() == pytest.approx(1.0, abs=1e-9)
    assert found.best.label.tolist() == [1, 2, 3, 4]
    assert found.summary() == {"total": 4, "unique": 4, "object": 2, "part": 2}
    assert found.thresholds.tolist() == [0.0] * 4
    assert found.examples is not None
    assert (found.examples.peaks == 1).all()


def test_controls_find_less() -> None:
    network = Known()
    found = dissect(
        network,
        ["units"],
        world(40),
        quantile=0.25,
        iou_threshold=0.2,
        preprocessing=raw,
        controls=["rotation", "labels"],
        progress=False,
    )
    assert list(found) == ["units", "units:rotation", "units:labels"]
    assert [result.control for result in found.values()] == ["", "rotation", "labels"]
    best = [float(result.best.iou.mean()) for result in found.values()]
    assert best[0] == pytest.approx(1.0)
    assert max(best[1:]) < 0.9
    plain, _, shuffled = found.values()
    assert torch.equal(plain.counts.areas, shuffled.counts.areas)
    assert torch.equal(plain.counts.label_pixels, shuffled.counts.label_pixels)


class Moving(Known):
    """Says where it was moved to, and stays."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def to(self, device: torch.device) -> Moving:
        self.places.append(str(device))
        return self


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was(fails: bool) -> None:
    network = Moving().train()
    network.unused.eval()
    nn.init.constant_(network.last.bias, torch.inf)
    options = {"quantile": 0.5, "preprocessing": raw, "progress": False, "device": "cpu:0"}
    if fails:
        with pytest.raises(InputError, match="is not finite") as caught:  # which holds on to every frame
            dissect(network, ["last"], world(3), **options)
        assert caught.tb
    else:
        dissect(network, ["units"], world(3), **options)
    assert network.training
    assert not network.unused.training
    assert not network.units._forward_hooks
    assert not torch.is_inference_mode_enabled()
    assert network.places == ["cpu:0", "cpu"]


@pytest.mark.gpu
def test_a_network_returns_from_a_gpu() -> None:
    network = Known()
    once = dissect(network, ["units"], world(), quantile=0.5, preprocessing=raw, progress=False, device="cuda")
    assert network.last.weight.device.type == "cpu"
    here = dissect(network, ["units"], world(), quantile=0.5, preprocessing=raw, progress=False)
    assert torch.equal(once["units"].counts.intersections, here["units"].counts.intersections)


class OnMps(Tensor):
    """A tensor as on Apple's GPUs: without float64, and not to be mixed with others."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is Tensor.device.__get__:
            return torch.device("mps")
        if function is Tensor.cpu or (function.__name__ == "to" and "cpu" in map(str, args[1:])):
            return args[0].as_subclass(Tensor)
        has_plain = any(type(part) is Tensor and part.dim() for part in args)
        is_double = any(part is torch.float64 for part in (*args, *(kwargs or {}).values()))
        if has_plain or is_double or function is Tensor.double:
            raise TypeError(f"{function} does not go with MPS")
        return super().__torch_function__(function, types, args, kwargs)


@pytest.mark.parametrize("controls", [(), ("rotation", "labels")])
def test_on_mps_only_the_network_runs_there(controls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    move = Tensor.to

    def to(self: Tensor, *args: Any, **options: Any) -> Tensor:
        return self.as_subclass(OnMps) if str(args[0]) == "mps" else move(self, *args, **options)

    monkeypatch.setattr(Tensor, "to", to)
    network = nn.Sequential(nn.AvgPool2d(2))
    options = {"quantile": 0.3, "preprocessing": raw, "controls": controls, "examples": 2, "progress": False}
    there = dissect(network, ["0"], world(), device="mps", **options)
    here = dissect(network, ["0"], world(), **options)
    for name, result in here.items():
        assert torch.equal(there[name].counts.intersections, result.counts.intersections)
        assert type(there[name].thresholds) is Tensor


def test_batches_workers_and_several_layers_change_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2))
    once = dissect(network, ["0", "2"], world(7), quantile=0.1, batch_size=7, progress=False)
    parts = dissect(network, ["2"], world(7), quantile=0.1, batch_size=2, num_workers=1, progress=False)
    assert torch.equal(once["2"].counts.intersections, parts["2"].counts.intersections)
    assert (once["0"].units, once["2"].units) == (6, 5)
    assert not torch.equal(once["0"].thresholds[:5], once["2"].thresholds)


def test_a_batch_travels_as_one_tensor_per_size(monkeypatch: pytest.MonkeyPatch) -> None:
    concepts = Made(
        [torch.ones(1, side, side) for side in (4, 4, 6, 4)],
        images=[torch.full((3, side, side), side, dtype=torch.uint8) for side in (4, 4, 6, 4)],
    )
    reader = engine._Reader(concepts)
    batch = engine._collated([reader[index] for index in range(4)])
    assert isinstance(batch, engine._Batch)
    assert [(images.dtype, [*images.shape]) for images in batch.images] == [
        (torch.uint8, [2, 3, 4, 4]),
        (torch.uint8, [1, 3, 6, 6]),
        (torch.uint8, [1, 3, 4, 4]),
    ]
    assert batch.names == [f"image {index}" for index in range(4)]
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda images: pinned.append(images) or images)
    assert [*map(id, batch.pin_memory().images)] == [*map(id, batch.images)] == [*map(id, pinned)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_batches_are_pinned_for_a_gpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Watched(DataLoader):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            seen.append(options["pin_memory"])

        def __iter__(self) -> Any:
            for batch in super().__iter__():
                seen.extend(images.is_pinned() for images in batch.images)
                yield batch

    monkeypatch.setattr(engine, "DataLoader", Watched)
    network = nn.Conv2d(3, 2, 3).to(device)
    dissect(nn.Sequential(network), ["0"], world(3), batch_size=2, num_workers=1, progress=False)
    assert seen == [device == "cuda"] * 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_missing_is_one_line_wherever_it_is_read(workers: int, tmp_path: Path) -> None:
    broden = Broden(write_broden(tmp_path))
    (tmp_path / "images/a/m2.png").unlink()
    with pytest.raises(InputError, match=r"index.csv, row 2: there is no file .*m2.png$"):
        dissect(nn.Sequential(nn.Conv2d(3, 2, 3)), ["0"], broden, num_workers=workers, progress=False)


def test_a_layer_named_twice_is_taken_once() -> None:
    found = dissect(Known(), ["units", "units"], world(3), quantile=0.5, preprocessing=raw, progress=False)
    assert (list(found), found["units"].images) == (["units"], 3)


def test_images_of_different_size() -> None:
    """A layer whose maps have one size whatever the image; masks of two sizes."""
    small, large = world(3, 16), world(3, 24, seed=1)
    both = Made(
        [*small._pixels, *large._pixels],
        categories={"object": [1, 2], "part": [3, 4]},
        images=[*small._images, *large._images],
    )
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(4))
    assert dissect(network, ["1"], both, quantile=0.1, progress=False)["1"].images == 6
    with pytest.raises(
        InputError, match=r"layer=0: the map of image 3 is \[4, 22, 22\], of images before \[4, 14, 14\]"
    ):
        dissect(network, ["0"], both, quantile=0.1, progress=False)


def test_units_without_a_map_count_as_one_cell() -> None:
    found = dissect(Known(), ["last"], world(5), quantile=0.5, preprocessing=raw, progress=False)["last"]
    assert found.units == 2
    assert set(found.counts.areas.tolist()) <= {16 * 16 * n for n in range(6)}


def test_what_follows_in_place_does_not_change_the_maps() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    nn.init.constant_(network[0].bias, -100.0)
    found = dissect(network, ["0"], world(4), quantile=0.9, progress=False)["0"]
    assert found.thresholds.max() < 0


def test_a_module_that_is_used_twice_is_refused() -> None:
    twice = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), twice, nn.Conv2d(4, 4, 3), twice)
    with pytest.raises(InputError, match="layer=1: the network calls it more than once for an image; name the module"):
        dissect(network, ["1"], world(4), progress=False)


def test_wrong_layers_are_explained() -> None:
    with pytest.raises(InputError, match="layer=unit: the network has no such layer; did you mean units"):
        dissect(Known(), ["unit"], world(2), progress=False)
    with pytest.raises(InputError, match="layer=zzz: the network has no such layer; its parts are units, unused, last"):
        dissect(Known(), ["zzz"], world(2), progress=False)
    with pytest.raises(InputError, match="layer: name at least one"):
        dissect(Known(), [], world(2), progress=False)
    with pytest.raises(InputError, match="layer=unused: the network does not use it"):
        dissect(Known(), ["unused"], world(2), progress=False)
    with pytest.raises(InputError, match=r"layer=0 puts out a tensor \[2, 3, 256\]: feature maps"):
        dissect(nn.Sequential(nn.Flatten(2)), ["0"], world(2), progress=False)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_activations_that_are_no_numbers(value: float) -> None:
    maps = torch.zeros(2, 3, 4, 4)
    maps[1, 2, 3, 0] = value
    with pytest.raises(InputError, match="layer=given: the activation of unit 2 for the image image 1 is not finite"):
        dissect_activations(maps, world(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantile": 0.0}, "quantile=0.0: expected a fraction between 0 and 1"),
        ({"quantile": "abc"}, "quantile=abc: expected a fraction between 0 and 1"),
        ({"iou_threshold": 1.5}, "iou_threshold=1.5: expected a number up to 1"),
        ({"iou_threshold": None}, "iou_threshold=None: expected a number up to 1"),
        ({"presence": "none"}, "presence=none: expected lite or original"),
        ({"controls": ["other"]}, "controls=other: expected rotation or labels"),
        ({"controls": "other"}, "controls=other: expected rotation or labels"),
        ({"rotations": 0}, "rotations=0: expected a whole number from 1"),
        ({"examples": -1}, "examples=-1: expected a whole number from 0"),
        ({"batch_size": 0}, "batch_size=0: expected a whole number from 1"),
        ({"batch_size": 2.5}, "batch_size=2.5: expected a whole number from 1"),
        ({"num_workers": -1}, "num_workers=-1: expected a whole number from 0"),
        ({"preprocessing": "other"}, "preprocessing=other: expected reference, imagenet or"),
        ({"preprocessing": [[0, 0, 0]]}, "expected mean and deviation"),
        ({"preprocessing": [["r", 0, 0], [1, 1, 1]]}, "expected mean and deviation"),
        ({"preprocessing": [[0, 0, 0], [1, 1, 0]]}, "expected mean and deviation"),
        ({"preprocessing": 5}, "preprocessing=5: expected mean and deviation"),
    ],
)
def test_impossible_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dissect(Known(), ["units"], world(2), progress=False, **options)


def test_no_images_or_other_ones() -> None:
    empty = Made([], categories={"object": [1]})
    with pytest.raises(InputError, match="made: there are no images"):
        dissect(Known(), ["units"], empty, progress=False)
    with pytest.raises(InputError, match="made has 3 images, activations were given for 2"):
        dissect_activations(torch.zeros(2, 1, 2, 2), world(3))


def test_images_without_labels_count_for_thresholds_only() -> None:
    plain = world(4)
    bare = Made(
        [*plain._pixels, torch.zeros(0, 16, 16)],
        categories={"object": [1, 2], "part": [3, 4]},
        images=[*plain._images, torch.ones(3, 16, 16).byte()],
    )
    found = dissect(Known(), ["units"], bare, quantile=0.5, preprocessing=raw, progress=False)["units"]
    assert found.best.iou.numpy() == pytest.approx(1.0, abs=1e-9)  # unit 0 is active in the bare image: not counted
    assert found.counts.areas[0] == found.counts.category_areas[0, 0] + 256


def test_preprocessing() -> None:
    image = torch.tensor([125, 119, 110], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = (torch.tensor([125, 119, 110]) - torch.tensor([124.6901, 118.6897, 109.5388])) / 57.12
    assert torch.equal(preprocessing("reference")(image).flatten(), expected)
    assert preprocessing([[125, 119, 110], [1, 1, 1]])(image).abs().sum() == 0
