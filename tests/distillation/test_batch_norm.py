"""Batch norm over two processes is torch's own over the joined batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from introspect.distillation.batch_norm import CPUSyncBatchNorm

ROWS = (3, 5)  # of each process: not as many
CASES = ((True, 0.1), (False, None))  # affine, momentum


def network(affine: bool, momentum: float | None) -> nn.Sequential:
    torch.manual_seed(0)
    norms = (nn.BatchNorm2d(4, affine=affine, momentum=momentum), nn.BatchNorm2d(2, momentum=momentum))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), norms[0], nn.ReLU(), nn.Conv2d(4, 2, 3), norms[1]).double()
    for norm in norms:
        for parameter in norm.parameters():
            nn.init.normal_(parameter)
    return net


def trained(net: nn.Module, images: torch.Tensor, wanted: torch.Tensor) -> dict[str, Any]:
    """Twice forward and once back: outputs, gradients of weights and images, running statistics."""
    images = images.clone().requires_grad_()
    net(2 * images.detach())
    out = net(images)
    (out * wanted).sum().backward()
    grads = {name: parameter.grad for name, parameter in net.named_parameters()}
    return {"out": out.detach(), "images": images.grad, "grads": grads, "state": dict(net.state_dict())}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(sum(ROWS), 3, 7, 6).double() + 2, torch.randn(sum(ROWS), 2, 3, 2).double()


def one_of_two(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    images, wanted = (part.split(ROWS)[rank] for part in data())
    every = []
    for case in CASES:
        found = trained(CPUSyncBatchNorm().apply(network(*case)), images, wanted)
        for gradient in found["grads"].values():
            distributed.all_reduce(gradient)
        every.append(found)
    torch.save(every, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_are_one_on_the_joined_batch(tmp_path: Path) -> None:
    spawn(one_of_two, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case, *parts in zip(CASES, *ranks, strict=True):
        expected = trained(network(*case), *data())
        for name in ("out", "images"):
            joined = torch.cat([part[name] for part in parts])
            torch.testing.assert_close(joined, expected[name], rtol=0, atol=1e-12)
        for part in parts:
            torch.testing.assert_close(part["grads"], expected["grads"], rtol=0, atol=1e-12)
            torch.testing.assert_close(part["state"], expected["state"], rtol=0, atol=1e-12)


def test_applying_twice_and_reverting_leaves_the_classes_as_they_were() -> None:
    net = network(True, 0.1)
    sync = CPUSyncBatchNorm()
    sync.apply(sync.apply(net))
    assert isinstance(net[1], nn.BatchNorm2d)
    assert type(net[1]) is not nn.BatchNorm2d
    sync.revert(net)
    assert type(net[1]) is nn.BatchNorm2d
