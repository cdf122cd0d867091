"""How long an epoch of distillation takes beside the same epoch in torchdistill's own training loop.

    python benchmarks/distillation.py                                ResNet-56 to ResNet-20, images of 32 pixels
    python benchmarks/distillation.py --device cuda --images 12800 --precision bf16-mixed --workers 4

An epoch is all that a training does in it: reading images, moving and mirroring them, forward passes of teacher and
student, loss (alpha 0.5, temperature 4), backward pass, a step of SGD, and what is counted and logged on the way. All
ways have copies of the same networks and the same images, in one process, and take turns; the number is images per
second, the median over rounds, after a first one that does not count, but tells the memory that an epoch takes.

    ours                     `Distillation` under Lightning's Trainer, as train.py runs it
    ours, contiguous         the same with model.channels_last=false
    ours, compiled           the same with model.compile=true
    ours, logits kept        the same with model.teacher.cache=true, which wants images that are not moved or mirrored
    torchdistill             its DistillationBox, with the transforms of its CIFAR configurations, image by image
    torchdistill, no images  the same with pixels that are ready: neither read, nor moved, nor mirrored
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from lightning.pytorch import Callback, Trainer  # noqa: E402
from memory import peak  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import Dataset, RandomSampler  # noqa: E402

from introspect.distillation.datamodule import ImageDataModule  # noqa: E402
from introspect.distillation.module import Distillation  # noqa: E402
from introspect.distillation.objectives import LogitDistillation  # noqa: E402
from introspect.distillation.teacher import Teacher  # noqa: E402
from introspect.vision.backbones import Backbone  # noqa: E402
from introspect.vision.datasets.base import TensorImages  # noqa: E402

CLASSES, SIDE = 10, 32
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WAYS = (
    "ours",
    "ours, contiguous",
    "ours, compiled",
    "ours, logits kept",
    "torchdistill",
    "torchdistill, no images",
)


class Noise:
    """An image set of random pixels and classes."""

    name, side, classes = "noise", SIDE, CLASSES

    def __init__(self, images: int) -> None:
        self.images = images

    @property
    def identity(self) -> str:
        """See `ImageSet`."""
        return f"noise {self.images}"

    def load(self, split: str) -> TensorImages:
        """The same images for each split, in memory."""
        generator = torch.Generator().manual_seed(0)
        count = self.images if split == "train" else 32
        pixels = torch.randint(256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        return TensorImages(pixels, torch.randint(CLASSES, (count,), generator=generator))


class Watch(Callback):
    """Takes the time of an epoch."""

    seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """End."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._start


def ours(options: argparse.Namespace, folder: Path, *, cache: bool = False, **settings: Any) -> Callable[[], float]:
    """An epoch of ours; returns its seconds."""
    teacher = Teacher(Backbone(options.teacher, CLASSES), folder, ckpt_path=folder / "teacher.pth", cache=cache)
    student = Distillation(
        student=Backbone(options.student, CLASSES),
        objective=LogitDistillation(temperature=4.0, alpha=0.5),
        teacher=teacher,
        **settings,
    )
    student.student.load_state_dict(torch.load(folder / "student.pth", weights_only=True))
    data = ImageDataModule(
        images=Noise(options.images),
        batch_size=options.batch_size,
        num_workers=options.workers,
        **({"shift": 0, "mirror": False} if cache else {}),
    )

    def epoch() -> float:
        watch = Watch()
        trainer = Trainer(
            max_epochs=1,
            accelerator="gpu" if options.device == "cuda" else "cpu",
            devices=1,
            precision=options.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            callbacks=[watch],
        )
        trainer.fit(student, data)
        return watch.seconds

    return epoch


class Transformed(Dataset[Any]):
    """Images as torchvision's data sets give them: each is a picture that is transformed on its own."""

    def __init__(self, images: TensorImages) -> None:
        from PIL import Image
        from torchvision import transforms

        self.pictures = [Image.fromarray(np.asarray(image.permute(1, 2, 0))) for image in images.images]
        self.targets = images.targets.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(SIDE, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, DEVIATION),
            ]
        )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[index]), self.targets[index]


class Prepared(Dataset[Any]):
    """The same pixels, normalised already."""

    def __init__(self, images: TensorImages) -> None:
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
        self.images, self.targets = (images.images / 255 - mean) / deviation, images.targets.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], self.targets[index]


def theirs(options: argparse.Namespace, folder: Path, images: type[Dataset[Any]]) -> Callable[[], float]:
    """An epoch in torchdistill's loop; returns its seconds."""
    from torchdistill.core.distillation import get_distillation_box

    logging.getLogger("torchdistill").setLevel(logging.WARNING)
    device = torch.device(options.device)
    networks = []
    for name in ("teacher", "student"):
        network = Backbone(getattr(options, name), CLASSES).build()
        network.load_state_dict(torch.load(folder / f"{name}.pth", weights_only=True))
        networks.append(network.to(device))
    side = {"module_path": ".", "module_io": "output"}
    paths = {f"{who}_{name}": value for who in ("student", "teacher") for name, value in side.items()}
    kd = {"key": "KDLoss", "kwargs": {**paths, "temperature": 4.0, "alpha": 0.5, "reduction": "batchmean"}}
    loader = {"batch_size": options.batch_size, "num_workers": options.workers, "drop_last": True}
    config = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {**loader, "pin_memory": device.type == "cuda"},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}}},
    }
    data = {"train": images(Noise(options.images).load("train"))}
    box = get_distillation_box(*networks, data, config, device, None, False, 1)
    networks[0].eval()
    dtype = {"32-true": None, "bf16-mixed": torch.bfloat16}[options.precision]

    def epoch() -> float:
        start = time.perf_counter()
        box.pre_epoch_process(epoch=0)
        for batch, targets, more in box.train_data_loader:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = box.forward_process(batch.to(device), targets.to(device), more)
            box.post_forward_process(loss=loss)
            assert np.isfinite(loss.item())  # as its example does, which logs it
        box.post_epoch_process()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return epoch


def ways(options: argparse.Namespace, folder: Path) -> dict[str, Callable[[], float]]:
    """What is measured."""
    torch.manual_seed(0)
    for name in ("teacher", "student"):
        torch.save(network_state(Backbone(getattr(options, name), CLASSES)), folder / f"{name}.pth")
    makers: dict[str, Callable[[], Callable[[], float]]] = {
        "ours": partial(ours, options, folder),
        "ours, contiguous": partial(ours, options, folder, channels_last=False),
        "ours, compiled": partial(ours, options, folder, compile=True),
        "ours, logits kept": partial(ours, options, folder, cache=True),
        "torchdistill": partial(theirs, options, folder, Transformed),
        "torchdistill, no images": partial(theirs, options, folder, Prepared),
    }
    return {name: makers[name]() for name in options.ways}


def network_state(backbone: Backbone) -> dict[str, Any]:
    """Random weights."""
    network: nn.Module = backbone.build()
    return network.state_dict()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="cifar_resnet56")
    parser.add_argument("--student", default="cifar_resnet20")
    parser.add_argument("--images", type=int, default=1280, help="of an epoch")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--workers", type=int, default=0, help="processes that read images")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}, {options.precision}")
    print(f"{options.teacher} to {options.student}, {options.images} images of {SIDE} pixels, {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        measured = ways(options, Path(folder))
        times: dict[str, list[float]] = {name: [] for name in measured}
        memory: dict[str, float] = {}
        for number in range(options.rounds + 1):
            for name, epoch in measured.items():
                if number:
                    times[name].append(epoch())
                else:
                    memory[name] = peak(epoch, options.device)
    median = {name: statistics.median(found) for name, found in times.items()}
    peer = next((name for name in ("torchdistill", *median) if name in median), "")
    print(f"| | images/s | ratio to {peer} | MB of the first epoch |\n|---|---|---|---|")
    for name, seconds in median.items():
        ratio = statistics.median(b / a for a, b in zip(times[name], times[peer], strict=True))
        print(f"| {name} | {options.images / seconds:,.0f} | {ratio:.2f} | {memory[name]:,.0f} |")


if __name__ == "__main__":
    main()
