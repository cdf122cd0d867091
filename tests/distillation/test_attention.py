from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.core.errors import InputError
from introspect.distillation.objectives import AttentionTransfer, LabelSmoothing, LogitDistillation
from introspect.distillation.objectives.attention import attention, difference
from introspect.vision.features import Features
from tests.distillation.comparing import agrees_with_differences, random, same, slopes, total

LAYERS = ("layer3", "layer4")


def inside(objective, student, teacher):
    logits = torch.zeros(len(student["layer3"]), 3, dtype=torch.float64)
    targets = torch.zeros(len(logits), dtype=torch.int64)
    return objective(Features(logits, student), Features(logits, teacher), targets)["attention"]


@pytest.mark.parametrize("mode", ["code", "paper"])
def test_golden_values_and_gradients(golden, mode):
    _, given_, expected = golden[f"at_{mode}_0"]
    student = {layer: given_[f"student_{layer}"].double().requires_grad_() for layer in LAYERS}
    teacher = {layer: given_[f"teacher_{layer}"].double() for layer in LAYERS}
    loss = inside(AttentionTransfer(layers=LAYERS, mode=mode, weight=1.0), student, teacher)
    same(loss, expected["loss64"])
    for layer, slope in zip(LAYERS, slopes(loss, *student.values()), strict=True):
        same(slope, expected[f"grad64_student_{layer}"])


@pytest.mark.parametrize("mode", ["code", "paper"])
@pytest.mark.parametrize("seed", range(3))
def test_values_and_gradients_of_torchdistill(reference, mode, seed):
    student = random(3, 5, 4, 6, seed=seed).requires_grad_()
    teacher = random(3, 7, 4, 6, seed=seed + 10)
    pair = {"path": "layer3", "io": "output"}
    theirs = reference.ATLoss({"one": {"student": pair, "teacher": pair, "weight": 1}}, mode=mode)
    expected = theirs({"layer3": {"output": student}}, {"layer3": {"output": teacher}})
    ours = 1000 * difference(student, teacher, mode)
    same(ours, 1000 * expected)
    same(*(slopes(loss, student)[0] for loss in (ours, 1000 * expected)))


@pytest.mark.parametrize("mode", ["code", "paper"])
def test_gradients_are_those_of_finite_differences(mode):
    assert agrees_with_differences(lambda maps: difference(maps, random(2, 4, 3, 3, seed=1), mode), random(2, 3, 3, 3))


@given(st.integers(0, 999), st.floats(0.1, 50))
def test_attention_is_of_length_1_and_ignores_size(seed, factor):
    maps = random(2, 3, 4, 4, seed=seed)
    assert attention(maps).norm(dim=1).tolist() == pytest.approx([1, 1])
    assert torch.allclose(attention(factor * maps), attention(maps))
    assert difference(factor * maps, maps, "code").item() == pytest.approx(0, abs=1e-12)


def test_a_case_by_hand():
    """One sees the first of four places, the other the second: d = (1, -1, 0, 0)."""
    one, other = torch.zeros(2, 1, 1, 2, 2)
    one[0, 0, 0, 0], other[0, 0, 0, 1] = 3.0, 5.0
    assert difference(one, other, "code").item() == pytest.approx(2 / 4)
    assert difference(one, other, "paper").item() == pytest.approx(2**0.5)


def test_a_layer_without_activity_has_finite_gradients():
    maps = torch.zeros(2, 3, 4, 4, requires_grad=True)
    for mode in ("code", "paper"):
        (slope,) = torch.autograd.grad(difference(maps, torch.rand(2, 3, 4, 4), mode), maps)
        assert slope.isfinite().all()


def test_the_base_stands_beside():
    logits, other = random(4, 5), random(4, 5, seed=1)
    maps = {"layer3": random(4, 2, 3, 3)}, {"layer3": random(4, 2, 3, 3, seed=1)}
    targets = torch.tensor([0, 1, 2, 3])
    base = LogitDistillation(4.0, 0.3)
    objective = AttentionTransfer(layers=["layer3"], weight=7.0, base=base, base_weight=0.1)
    losses = objective(Features(logits, maps[0]), Features(other, maps[1]), targets)
    alone = base(Features(logits), Features(other), targets)
    assert losses.keys() == {"cross_entropy", "logit", "attention"}
    assert losses["logit"].item() == pytest.approx(0.1 * alone["logit"].item())
    assert losses["cross_entropy"].item() == pytest.approx(0.1 * alone["cross_entropy"].item())
    assert losses["attention"].item() == pytest.approx(7 * difference(maps[0]["layer3"], maps[1]["layer3"], "code"))
    smooth = AttentionTransfer(layers=["layer3"], base=LabelSmoothing(0.2), weight=0.0)
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.2)
    assert total(smooth, (logits, maps[0]), (other, maps[1]), targets).item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: AttentionTransfer(layers=["a"], mode="both"), "objective.mode=both: expected code or paper"),
        (lambda: AttentionTransfer(layers=[]), "expected pairs of layers"),
        (lambda: AttentionTransfer(layers=["a"], teacher_layers=["a", "b"]), "expected pairs of layers"),
        (lambda: AttentionTransfer(layers=["a"], base_weight=0.0), "base_weight=0.0, weight=1000.0: expected more"),
        (lambda: AttentionTransfer(layers=["a"], base=AttentionTransfer(layers=["a"])), "objective.base: expected"),
    ],
)
def test_settings_out_of_range(make, complaint):
    with pytest.raises(InputError, match=complaint):
        make()


def test_maps_of_different_sizes():
    objective = AttentionTransfer(layers=["a"], teacher_layers=["b"])
    student, teacher = Features(torch.zeros(1, 2), {"a": torch.zeros(1, 2, 4, 4)}), Features(torch.zeros(1, 2), {})
    with pytest.raises(InputError, match=r"student's a has maps of \[4, 4\] cells, the teacher's b of \[2, 4\]"):
        objective.build(student, Features(teacher.logits, {"b": torch.zeros(1, 2, 2, 4)}))
    with pytest.raises(InputError, match=r"layer b puts out \[1, 2\], expected maps"):
        objective.build(student, Features(teacher.logits, {"b": torch.zeros(1, 2)}))
    with pytest.raises(InputError, match="AttentionTransfer needs a teacher"):
        objective(student, None, torch.zeros(1, dtype=torch.int64))
