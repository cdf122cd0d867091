"""How long a dissection takes beside a bare forward pass, and how much memory.

    python benchmarks/dissection.py --broden PATH                   as many images as there are, ResNet-18 layer4
    python benchmarks/dissection.py --broden PATH --images 1000     the images over and over, 1,000 in all

PATH is a data set in Broden's layout; without one, images of noise with random rectangles as concepts are made. The
forward pass has its images in memory already, the dissection reads and decodes images and masks too: the ratio is of
all that a dissection costs to what the network alone does. `tally` is the counting alone, annotations packed; beside
it the same by NetDissect-Lite's procedure, a unit and an image at a time, which must find the same counts.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from introspect.dissection.concepts.base import Annotated, ConceptDataset, Label
from introspect.dissection.concepts.broden import Broden
from introspect.dissection.engine import dissect
from introspect.dissection.quantiles import UpperQuantile
from introspect.dissection.tally import Annotation, Counts, Masks, add
from introspect.vision.hooks import feature_maps
from introspect.vision.preprocessing import preprocessing


class Repeated:
    """A concept data set, its images over and over."""

    def __init__(self, concepts: ConceptDataset, images: int) -> None:
        self.concepts, self.images = concepts, images
        self.name, self.categories = concepts.name, concepts.categories
        self.labels, self.primary = concepts.labels, concepts.primary

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Annotated:
        return self.concepts[index % len(self.concepts)]


class Noise:
    """Made images: noise of 224 x 224, masks of 112 x 112 with 20 rectangles in each of four layers."""

    name = "noise"
    categories = ("object", "part", "material", "color")

    def __init__(self, images: int = 40, labels: int = 400) -> None:
        self.primary = torch.arange(labels + 1) % 4
        self.labels = [Label(n, f"label {n}" if n else "", self.categories[n % 4]) for n in range(labels + 1)]
        self.images = images

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Annotated:
        generator = torch.Generator().manual_seed(index)
        pixels = torch.zeros(4, 112, 112, dtype=torch.int32)
        for layer in range(4):
            for y, x, number in torch.randint(96, (20, 3), generator=generator).tolist():
                pixels[layer, y : y + 16, x : x + 16] = 4 * (number + 1) + layer
        image = torch.randint(256, (3, 224, 224), generator=generator, dtype=torch.uint8)
        return Annotated(image, pixels, (), f"image {index}")


def network_of(name: str) -> nn.Module:
    """An untrained classifier of torchvision."""
    from torchvision import models

    torch.manual_seed(0)
    return models.get_model(name, weights=None).eval()


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def forward(network: nn.Module, batches: list[torch.Tensor], images: int) -> None:
    """The bare pass: `images` images, preprocessed and put through the network."""
    prepare = preprocessing("reference")
    with torch.inference_mode():
        for start in range(0, images, len(batches[0])):
            batch = batches[start // len(batches[0]) % len(batches)]
            network(prepare(batch[: images - start]))


def one_by_one(maps: np.ndarray, thresholds: np.ndarray, items: list[Annotated], primary: np.ndarray) -> np.ndarray:
    """Intersections [u, l], then areas by category [u, k], by NetDissect-Lite's procedure."""
    labels, categories = len(primary), int(primary.max()) + 1
    counts = np.zeros((maps.shape[1], labels + categories), np.int64)
    for image, item in zip(maps, items, strict=True):
        layers, scalars = item.pixels.numpy(), list(item.scalars)
        for unit, cells in enumerate(image):
            if not cells.max() > thresholds[unit]:
                continue
            large = functional.interpolate(
                torch.from_numpy(cells)[None, None].double(), layers.shape[1:], mode="bilinear", align_corners=False
            )
            mask = large[0, 0].numpy() > thresholds[unit]
            area = np.count_nonzero(mask)
            under = np.bincount(layers[:, mask].ravel(), minlength=labels)
            under[0] = 0
            under[scalars] += area
            counts[unit, :labels] += under
            counts[unit, labels + np.unique(primary[under > 0])] += area
    return counts


def tally_times(network: nn.Module, layer: str, concepts: ConceptDataset, repeats: int) -> tuple[float, float]:
    """Seconds per image of the counting alone: ours, and one by one."""
    items = [concepts[index] for index in range(min(len(concepts), 40))]
    with feature_maps(network, [layer]) as found:
        network(preprocessing("reference")(torch.stack([item.image for item in items])))
        maps = found[layer].clone()
    stream = UpperQuantile(0.005, maps[:, 0].numel())
    stream.add(maps.transpose(0, 1).flatten(1))
    thresholds = stream.thresholds()
    masks = Masks.of([Annotation.of(item.pixels, item.scalars) for item in items])
    plain = maps.numpy(), thresholds.numpy(), items, concepts.primary.numpy()

    def count() -> Counts:
        counts = Counts.zeros(maps.shape[1], len(concepts.labels), len(concepts.categories))
        add(counts, maps, thresholds, masks, concepts.primary, "lite")
        return counts

    ours = count()
    slow = one_by_one(*plain)
    fast = torch.cat([ours.intersections, ours.category_areas], 1).numpy()[:, : slow.shape[1]]
    if not np.array_equal(fast, slow):
        raise SystemExit("the two ways of counting differ")
    pairs = [(seconds(count), seconds(lambda: one_by_one(*plain))) for _ in range(repeats)]
    own, other = (statistics.median(column) / len(items) for column in zip(*pairs, strict=True))
    return own, other


def megabytes() -> float:
    """The most memory that the process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broden", help="folder in Broden's layout")
    parser.add_argument("--images", type=int, help="how many; fewer than there are, or the same over and over")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--layer", default="layer4")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0, help="processes that read images")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    source: ConceptDataset = Broden(arguments.broden) if arguments.broden else Noise()
    images = arguments.images or len(source)
    network = network_of(arguments.network)

    size = arguments.batch_size
    kept = [source[index].image for index in range(min(len(source), images))]
    batches = [torch.stack(kept[start : start + size]) for start in range(0, len(kept) - size + 1, size)] or [
        torch.stack(kept)
    ]
    options = {"batch_size": size, "num_workers": arguments.workers, "progress": False}

    def run(number: int) -> None:
        dissect(network, [arguments.layer], Repeated(source, number), **options)

    print(f"{source.name}, {images} images, {arguments.network} {arguments.layer}, {torch.get_num_threads()} threads")
    forward(network, batches, size)
    run(min(images, 2 * size))
    few = max(2 * size, images // 4)
    run(few)
    before = megabytes()
    pairs = [
        (seconds(lambda: forward(network, batches, images)), seconds(lambda: run(images)))
        for _ in range(arguments.repeats)
    ]
    bare, whole = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(second / first for first, second in pairs)
    print(f"forward pass        {1000 * bare / images:8.2f} ms/image")
    print(f"dissection          {1000 * whole / images:8.2f} ms/image")
    print(f"ratio               {ratio:8.2f}")
    print(f"peak memory         {before:8.0f} MB after {few} images, {megabytes():.0f} MB after {images}")
    own, other = tally_times(network, arguments.layer, source, 5 * arguments.repeats)
    print(f"tally               {1000 * own:8.3f} ms/image; one by one {1000 * other:.1f}, {other / own:.0f} times")


if __name__ == "__main__":
    main()
