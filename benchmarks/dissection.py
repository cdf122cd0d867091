"""How long a dissection takes beside a bare forward pass, and how much memory.

    python benchmarks/dissection.py --broden PATH                   as many images as there are, ResNet-18 layer4
    python benchmarks/dissection.py --broden PATH --images 1000     the images over and over, 1,000 in all

PATH is a data set in Broden's layout; without one, images of noise with random rectangles as concepts are made. The
forward pass has its images in memory already, the dissection reads and decodes images and masks too: the ratio is of
all that a dissection costs to what the network alone does. `tally` is the counting alone, annotations packed.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from introspect.dissection.concepts.base import Annotated, ConceptDataset, Label
from introspect.dissection.concepts.broden import Broden
from introspect.dissection.engine import dissect
from introspect.dissection.preprocessing import preprocessing
from introspect.dissection.quantiles import UpperQuantile
from introspect.dissection.tally import Annotation, Counts, Masks, add
from introspect.dissection.taps import tapped


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


def tally_time(network: nn.Module, layer: str, concepts: ConceptDataset, repeats: int) -> float:
    """Seconds per image of the counting alone."""
    items = [concepts[index] for index in range(min(len(concepts), 40))]
    with tapped(network, [layer]) as found:
        network(preprocessing("reference")(torch.stack([item.image for item in items])))
        maps = found[layer].clone()
    stream = UpperQuantile(0.005, maps[:, 0].numel())
    stream.add(maps.transpose(0, 1).flatten(1))
    thresholds = stream.thresholds()
    masks = Masks.of([Annotation.of(item.pixels, item.scalars) for item in items])

    def count() -> None:
        counts = Counts.zeros(maps.shape[1], len(concepts.labels), len(concepts.categories))
        add(counts, maps, thresholds, masks, concepts.primary, "lite")

    count()
    return statistics.median(seconds(count) for _ in range(repeats)) / len(items)


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
    print(f"tally               {1000 * tally_time(network, arguments.layer, source, 20):8.3f} ms/image")


if __name__ == "__main__":
    main()
