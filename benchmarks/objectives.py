"""How long a step of distillation takes beside the same step with torchdistill's hooks, networks and losses.

    python benchmarks/objectives.py                                       ResNet-34 to ResNet-18, small images
    python benchmarks/objectives.py --side 224 --batch-size 64 --device cuda

A step is: forward passes of teacher and student with the layers that are read, loss, backward pass, one step of SGD.
Both sides have copies of the same networks and the same batches, in one process, and take turns, who is first changing
from step to step; the ratio is the median of the ratios of pairs. Ours includes what torchdistill does while it loads
data: drawing negatives (CRD) and turning images (SSKD). `loss` is the objective alone, forward and backward, on
features that are there already.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from introspect.distillation.objectives import (
    AttentionTransfer,
    ContrastiveDistillation,
    FactorTransfer,
    Objective,
    SelfSupervisedDistillation,
)
from introspect.distillation.objectives.self_supervised import rotations
from introspect.distillation.training import Training
from introspect.vision.backbones import Backbone
from introspect.vision.features import Features, features, outline

CLASSES = 100
IMAGES = 50_000  # of the training set whose banks CRD keeps
NEGATIVES = 4096
# `cpu` counts what the process has computed: where other programs keep the machine busy, on a CPU.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def objectives(layers: Sequence[str]) -> dict[str, Objective]:
    """Ours, with the settings of torchdistill's configurations."""
    last, how = layers[-1], Training(epochs=1)
    return {
        "at": AttentionTransfer(layers=layers),
        "ft": FactorTransfer(layer=last, paraphraser=how),
        "crd": ContrastiveDistillation(layer=last, negatives=NEGATIVES),
        "sskd": SelfSupervisedDistillation(layer=last, head=how),
    }


class Theirs:
    """Hooks, auxiliary networks and loss of torchdistill for one method, on given networks."""

    def __init__(self, method: str, student: nn.Module, teacher: nn.Module, ours: Objective) -> None:
        from torchdistill.core.forward_hook import register_forward_hook_with_dict

        self.method, self.student, self.teacher = method, student, teacher
        self.layers = ours.student_layers
        self.io: dict[str, dict[str, Any]] = {"student": {}, "teacher": {}}
        for side, network in (("student", student), ("teacher", teacher)):
            for layer in self.layers:
                register_forward_hook_with_dict(network.get_submodule(layer), layer, False, True, self.io[side])
        sizes = [outline_units(network, self.layers[-1]) for network in (student, teacher)]
        self.extra, self.loss = getattr(self, f"_{method}")(*sizes)
        self.extra = self.extra.to(next(student.parameters()).device)
        self.loss = self.loss.to(next(student.parameters()).device)

    def _at(self, own: int, other: int) -> tuple[nn.ModuleDict, nn.Module]:
        from torchdistill.losses.mid_level import ATLoss

        pair = {name: {"path": name, "io": "output"} for name in self.layers}
        pairs = {name: {"student": path, "teacher": path, "weight": 1} for name, path in pair.items()}
        return nn.ModuleDict(), ATLoss(pairs)

    def _ft(self, own: int, other: int) -> tuple[nn.ModuleDict, nn.Module]:
        from torchdistill.losses.mid_level import FTLoss
        from torchdistill.models.wrapper import Paraphraser4FactorTransfer, Translator4FactorTransfer

        paraphraser = Paraphraser4FactorTransfer(0.5, other, uses_bn=False, uses_decoder=False)
        translator = Translator4FactorTransfer(own, other // 2, uses_bn=False)
        return nn.ModuleDict({"student": translator, "teacher": paraphraser.requires_grad_(False)}), FTLoss()

    def _crd(self, own: int, other: int) -> tuple[nn.ModuleDict, nn.Module]:
        from torchdistill.losses.mid_level import CRDLoss
        from torchdistill.models.wrapper import Normalizer4CRD

        normalizers = {
            side: Normalizer4CRD(nn.Linear(size, 128)) for side, size in (("student", own), ("teacher", other))
        }
        return nn.ModuleDict(normalizers), CRDLoss("x", "empty", "x", 128, IMAGES, NEGATIVES, IMAGES)

    def _sskd(self, own: int, other: int) -> tuple[nn.ModuleDict, nn.Module]:
        from torchdistill.losses.mid_level import SSKDLoss

        heads = {
            side: nn.Sequential(nn.Linear(size, size), nn.ReLU(inplace=True), nn.Linear(size, size))
            for side, size in (("student", own), ("teacher", other))
        }
        heads["teacher"].requires_grad_(False)
        settings = {"kl_temp": 4.0, "ss_temp": 0.5, "tf_temp": 4.0, "ss_ratio": 0.75, "tf_ratio": 1.0}
        return nn.ModuleDict(heads), SSKDLoss("fc", "fc", "x", "x", **settings, loss_weights=[1.0, 0.0, 10.0, 2.7])

    def run(self, images: Tensor) -> tuple[Features, Features]:
        """The forward passes."""
        from torchdistill.core.util import extract_io_dict

        with torch.no_grad():
            taught = self.teacher(images)
        learnt = self.student(images)
        maps = [
            {name: io["output"] for name, io in extract_io_dict(self.io[side], images.device).items() if io}
            for side in ("student", "teacher")
        ]
        return Features(learnt, maps[0]), Features(taught, maps[1])

    def losses(self, student: Features, teacher: Features, targets: Tensor, chosen: Tensor) -> Tensor:
        """Cross-entropy and the method's loss."""
        last = self.layers[-1]
        ios = [{name: {"output": maps} for name, maps in found.maps.items()} for found in (student, teacher)]
        for io, found, side in zip(ios, (student, teacher), ("student", "teacher"), strict=True):
            io["fc"] = {"output": found.logits}
            if side in self.extra:
                maps = found.maps[last]
                io["x"] = {"output": self.extra[side](maps if self.method == "ft" else maps.mean((2, 3)))}
        if self.method == "sskd":
            return self.loss(*ios, targets)
        weight = {"at": 1000.0, "ft": 1000.0, "crd": 0.8}[self.method]
        if self.method == "ft":
            ios = [{name: io["x"]} for io, name in zip(ios, ("translator", "paraphraser"), strict=True)]
        if self.method == "crd":
            ios[0]["empty"] = {"input": {"pos_idx": chosen[:, 0], "contrast_idx": chosen}}
        return nn.functional.cross_entropy(student.logits, targets) + weight * self.loss(*ios)


def outline_units(network: nn.Module, layer: str) -> int:
    """Units of a layer of a residual network."""
    return [module for module in network.get_submodule(layer).modules() if isinstance(module, nn.Conv2d)][
        -1
    ].out_channels


def measure(method: str, arguments: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Seconds of (ours, theirs) for `step` and `loss`, a pair per repeat."""
    device = torch.device(arguments.device)
    layers = ("layer2", "layer3") if arguments.student.startswith("cifar") else ("layer3", "layer4")
    backbones = [Backbone(name, CLASSES) for name in (arguments.student, arguments.teacher)]
    torch.manual_seed(0)
    student, teacher = (backbone.build().to(device, memory_format=torch.channels_last) for backbone in backbones)
    teacher.eval().requires_grad_(False)
    ours = objectives(layers)[method]
    ours.build(outline(backbones[0], ours.student_layers), outline(backbones[1], ours.teacher_layers))
    if ours.stage is not None:
        ours.stage.eval().requires_grad_(False).to(device)
    if ours.needs_indices:
        ours.begin(torch.arange(IMAGES) % CLASSES)
    ours.to(device)
    theirs = Theirs(method, copy.deepcopy(student), copy.deepcopy(teacher), ours)

    count, side = arguments.batch_size, arguments.side
    images = torch.randn(count, 3, side, side, device=device).to(memory_format=torch.channels_last)
    views = rotations(images) if method == "sskd" else images
    targets = torch.randint(CLASSES, (count,), device=device)
    numbers = torch.randperm(IMAGES, device=device)[:count]
    chosen = torch.cat([numbers[:, None], torch.randint(IMAGES, (count, NEGATIVES), device=device)], 1)

    def forward() -> tuple[Features, Features]:
        shown = ours.inputs(images)
        with torch.no_grad():
            taught = features(teacher, shown, ours.teacher_layers)
        return features(student, shown, ours.student_layers), taught

    def own(found: tuple[Features, Features]) -> Tensor:
        return torch.stack(list(ours(*found, targets, numbers).values())).sum()

    def other(found: tuple[Features, Features]) -> Tensor:
        return theirs.losses(*found, targets, chosen).sum()

    def step(run: Callable[[], Any], loss: Callable[[Any], Tensor], optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss(run()).backward()
        optimizer.step()

    optimizers = [
        torch.optim.SGD([p for m in modules for p in m.parameters() if p.requires_grad], 0.01, 0.9)
        for modules in ((student, ours), (theirs.student, theirs.extra))
    ]
    kinds: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "step": (
            lambda: step(forward, own, optimizers[0]),
            lambda: step(lambda: theirs.run(views), other, optimizers[1]),
        )
    }
    found = [detached(features_) for features_ in forward()]
    kinds["loss"] = (lambda: own(tuple(found)).backward(), lambda: other(tuple(found)).backward())
    return {kind: in_turns(pair, arguments.repeats, device, CLOCKS[arguments.clock]) for kind, pair in kinds.items()}


def detached(found: Features) -> Features:
    """The same values, with gradients of their own."""
    return Features(
        found.logits.detach().requires_grad_(),
        {name: maps.detach().requires_grad_() for name, maps in found.maps.items()},
    )


def in_turns(
    pair: Sequence[Callable[[], Any]], repeats: int, device: torch.device, clock: Callable[[], float]
) -> list[tuple[float, float]]:
    """Seconds of both, again and again, after a few that do not count."""

    def seconds(action: Callable[[], Any]) -> float:
        start = clock()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    times = []
    for repeat in range(repeats + 3):
        order = (0, 1) if repeat % 2 else (1, 0)
        taken = {which: seconds(pair[which]) for which in order}
        times.append((taken[0], taken[1]))
    return times[3:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--teacher", default="resnet34")
    parser.add_argument("--side", type=int, default=64, help="height and width of an image")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--methods", nargs="*", default=["at", "ft", "crd", "sskd"])
    arguments = parser.parse_args()
    print(f"{arguments.teacher} to {arguments.student}, {arguments.batch_size} images of {arguments.side} pixels")
    print(f"{arguments.device}, {torch.get_num_threads()} threads, {arguments.clock} clock, milliseconds")
    print(f"medians of {arguments.repeats} pairs; of the ratio, quartiles too")
    print(f"{'':12}{'ours':>10}{'theirs':>10}{'ratio':>8}{'from':>7}{'to':>7}")
    for method in arguments.methods:
        for kind, times in measure(method, arguments).items():
            own, other = (1000 * statistics.median(column) for column in zip(*times, strict=True))
            low, ratio, high = statistics.quantiles([a / b for a, b in times], n=4)
            print(f"{method:5}{kind:7}{own:10.1f}{other:10.1f}{ratio:8.2f}{low:7.2f}{high:7.2f}", flush=True)


if __name__ == "__main__":
    main()
