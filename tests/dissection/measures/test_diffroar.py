"""DiffROAR: ranks and masks by hand, and its sign where the answer is known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from introspect.app import dissect
from introspect.cli import check
from introspect.core.errors import InputError
from introspect.dissection.measures.diffroar import DiffRoar, DiffRoarResult
from introspect.dissection.measures.images import Reader
from introspect.dissection.measures.masking import RankFile, keep, ranks
from introspect.dissection.measures.probes import ProbeTraining
from tests.composing import compose_config
from tests.dissection.measures.made import SETTINGS, Sides, Squares, checkpoint, plain, sides

pytest.importorskip("matplotlib", reason="an extra that only figures need")
TRAINING = ProbeTraining(epochs=3, batch_size=16, lr=0.05)


@dataclass(frozen=True)
class Linear:
    """Builds a linear probe."""

    name: str = "linear"
    classes: int = 2

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(192, self.classes))


class Blind(Sides):
    """Its gradients are nowhere 0 but in the squares."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.weight.copy_(torch.where(self.weight.sum(0) > 0, 0, torch.tensor([1.0, -1.0])[:, None, None, None]))


def test_ranks_by_hand() -> None:
    found = ranks(torch.tensor([[[3.0, 1.0], [2.0, 9.0]], [[0.0, 1.0], [-1.0, 5.0]]]))
    assert found.tolist() == [[2, 0, 1, 3], [1, 2, 0, 3]]


def test_what_is_kept_by_hand() -> None:
    images = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
    ranked = torch.arange(12)[None]
    assert keep(images, ranked, 0.25, "top", 50.5).flatten().tolist() == [50.5] * 9 + [9, 10, 11]
    assert keep(images, ranked, 0.25, "bottom", 50.5).flatten().tolist() == [0, 1, 2] + [50.5] * 9
    assert torch.equal(keep(images, ranked, 1, "top", 50.5), images.float())
    assert torch.equal(keep(images, ranked, 1, "bottom", 50.5), images.float())


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 5), st.floats(0, 1))
@settings(max_examples=40)
def test_ranks_are_an_order_and_masks_complement_each_other(seed: int, b: int, side: int, share: float) -> None:
    numbers = torch.Generator().manual_seed(seed)
    magnitudes = torch.randint(4, (b, 3, side, side), generator=numbers).float()  # with many equal ones
    found = ranks(magnitudes, numbers)
    count = 3 * side**2
    assert torch.equal(found.sort(1).values, torch.arange(count).expand(b, -1))
    ordered = torch.zeros(b, count).scatter_(1, found, magnitudes.flatten(1))
    assert (ordered.diff(dim=1) >= 0).all()
    images = torch.randint(1, 256, magnitudes.shape, generator=numbers)
    top, bottom = keep(images, found, share, "top", 0), keep(images, found, 1 - share, "bottom", 0)
    if abs(share * count % 1 - 0.5) > 1e-6:  # where rounding is not torn
        assert torch.equal(top + bottom, images.float())
    assert int((top > 0).sum()) == b * round(share * count)


def test_equal_values_are_not_ranked_by_their_place() -> None:
    found = ranks(torch.zeros(1, 3, 20, 20), torch.Generator().manual_seed(0)).view(3, 400).float()
    assert abs(float(found[0].mean() - found[2].mean())) < 60  # of 800, by place


def test_ranks_lie_on_disk_and_are_gone_in_the_end(tmp_path: Path) -> None:
    data = Squares(11)
    reader = Reader(data, limit=None, batch_size=4)
    with RankFile(tmp_path / "cache") as store:
        found, mean = store.fill(reader, reader.images, lambda batch: batch.images.float(), 0)
        images, _ = data.load("test").tensors
        assert mean == pytest.approx(float(images.float().mean()))
        batch = found.__getitems__([10, 2])
        assert torch.equal(batch[0], images[[10, 2]])
        least = batch[2].argmin(1)
        assert torch.equal(images[[10, 2]].flatten(1).gather(1, least[:, None])[:, 0], images[[10, 2]].amin((1, 2, 3)))
        assert list((tmp_path / "cache").rglob("*.bin"))
        del found
    assert not list((tmp_path / "cache").rglob("*"))


def run(network: nn.Module, folder: Path, attribution: str = "logit", **options: object) -> dict[str, float]:
    options = {"kept": [0.1875], "runs": 3, "training": TRAINING, "train_limit": None, "test_limit": None, **options}
    measure = DiffRoar(
        network=sides(network), data=Squares(200), probe=Linear(), folder=folder, attribution=attribution, **options
    )
    return {name.removeprefix("dissect/diffroar/"): value for name, value in measure().items()}


def test_where_gradients_find_the_signal(tmp_path: Path) -> None:
    """The 36 of 192 values that the gradient ranks first are the square: with them all is known.

    Without them not nothing is: which values are hidden tells a little, here as in the published method.
    """
    found = run(Sides(), tmp_path)
    assert found["0.1875/top_accuracy"] == 1
    assert found["difference"] > 0.12


def test_where_they_avoid_it(tmp_path: Path) -> None:
    """Ranked last are both places in which a square may be, 72 values of 192."""
    found = run(Blind(), tmp_path, kept=[0.375])
    assert found["0.375/bottom_accuracy"] == 1
    assert found["difference"] < -0.25


def test_random_ranks_find_nothing(tmp_path: Path) -> None:
    found = run(Sides(), tmp_path, "random")
    assert abs(found["difference"]) < 0.1


def test_files_and_their_numbers(tmp_path: Path) -> None:
    found = run(Sides(), tmp_path, "loss_x_input", kept=[0.1, 0.5], runs=2, test_limit=30, checkpoint="hand")
    content = json.loads((tmp_path / "diffroar.json").read_text())
    assert content["settings"]["images"] == {"train": 200, "test": 30}
    assert content["settings"]["checkpoint"] == "hand"
    assert content["settings"]["training"]["epochs"] == 3
    table = pq.read_table(tmp_path / "diffroar_probes.parquet").to_pylist()
    assert len(table) == 8
    for level in (0.1, 0.5):
        means = [
            sum(row["accuracy"] for row in table if row["kept"] == level and row["left"] == side) / 2
            for side in ("top", "bottom")
        ]
        assert found[f"{level}/difference"] == pytest.approx(means[0] - means[1])
    assert found["difference"] == pytest.approx((found["0.1/difference"] + found["0.5/difference"]) / 2)
    assert (tmp_path / "diffroar_levels.png").is_file()


def test_mean_and_deviation_are_over_all_pairs_of_runs() -> None:
    accuracy = torch.tensor([[[0.9, 0.7], [0.5, 0.3]]], dtype=torch.float64)
    result = DiffRoarResult("n", "c", "d", "loss", (0.5,), accuracy, (1, 1), "p", TRAINING)
    assert sorted(result.pairs.flatten().tolist()) == pytest.approx([0.2, 0.4, 0.4, 0.6])
    assert result.metrics()["dissect/diffroar/0.5/deviation"] == pytest.approx(0.02**0.5)
    single = DiffRoarResult("n", "c", "d", "loss", (0.5,), accuracy[..., :1], (1, 1), "p", TRAINING)
    assert "dissect/diffroar/0.5/deviation" not in single.metrics()
    assert single.metrics()["dissect/diffroar/difference"] == pytest.approx(0.4)


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    options = {"kept": [0.05], "runs": 1, "figure": False, "train_limit": 60}
    first, again, other = (run(Sides(), tmp_path, "random", seed=seed, **options) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_command(tmp_path: Path) -> None:
    given = ["measure=diffroar", f"ckpt_path={checkpoint(tmp_path, 18)}", "data.sizes.train=80", "data.sizes.test=40"]
    options = ["measure.runs=1", "measure.kept=[0.2]", "measure.training.epochs=1", "measure.probe.width=4"]
    cfg = compose_config("dissect", [*given, *options, *SETTINGS], tmp_path)
    check(cfg)
    metrics = dissect(cfg)
    assert -1 <= metrics["dissect/diffroar/difference"] <= 1
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == metrics
    assert not list((tmp_path / "data/cache/dissection").iterdir())


def too_large(images: Tensor) -> Tensor:
    return plain(images) * 1e30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kept": []}, r"kept=\[\]: expected fractions"),
        ({"kept": [0.5, 1.5]}, r"kept=\[0.5, 1.5\]: expected fractions"),
        ({"runs": 0}, "runs=0: expected a whole number from 1"),
        ({"attribution": "gradient"}, "attribution=gradient: expected loss, logit"),
        ({"preprocessing": too_large, "attribution": "random"}, "training.lr=0.05: the training of a probe diverged"),
    ],
)
def test_impossible_options(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(Sides(), tmp_path, **{"attribution": "logit", **options})


def test_a_probe_of_other_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data=squares has 2 classes, the network puts out \[3\]"):
        DiffRoar(network=sides(), data=Squares(), probe=Linear(classes=3), folder=tmp_path, training=TRAINING)()


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"batch_size": 1}, {"lr": 0}, {"momentum": 1}, {"weight_decay": -1}]
)
def test_impossible_training(options: dict) -> None:
    with pytest.raises(InputError, match="training"):
        ProbeTraining(**options)
