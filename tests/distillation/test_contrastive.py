from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, multiprocessing, nn
from torch.nn import functional

from introspect.core.errors import InputError
from introspect.distillation.objectives import ContrastiveDistillation
from introspect.distillation.objectives.contrastive import Banks, noise_contrast
from introspect.vision.features import Features
from tests.distillation.comparing import agrees_with_differences, random, same, slopes

CLASSES = torch.tensor([2, 0, 1, 0, 2, 2, 1, 0, 0, 2])


def directions(*shape, seed=0):
    return functional.normalize(random(*shape, seed=seed))


def contrast(images=10, size=4, **options):
    """An objective with filled banks, in float64."""
    objective = ContrastiveDistillation(layer="x", size=size, **{"negatives": 3, **options})
    objective.begin(CLASSES if images == 10 else torch.arange(images) % 2)
    return objective.double()


def test_golden_values_gradients_and_banks(golden):
    case, given_, expected = golden["crd_0"]
    settings = case["kwargs"]
    objective = contrast(settings["output_size"], settings["input_size"], temperature=settings["temperature"])
    objective.banks.student.copy_(given_["memory_v1"])
    objective.banks.teacher.copy_(given_["memory_v2"])
    students = [given_[f"student_{call}"].double().requires_grad_() for call in (1, 2)]
    losses = []
    for call, student in enumerate(students, 1):
        chosen = given_[f"contrast_idx_{call}"]
        assert torch.equal(chosen[:, 0], given_[f"pos_idx_{call}"])
        losses.append(objective.contrast(student, given_[f"teacher_{call}"].double(), chosen))
        same(losses[-1], expected[f"loss_call{call}_64"], 1e-5)
        same(objective.banks.student, expected[f"memory_v1_after{call}_64"], 1e-5)
        same(objective.banks.teacher, expected[f"memory_v2_after{call}_64"], 1e-5)
        same(objective.banks.scales, expected[f"params_after{call}_64"][2:4], 1e-5)
    for call, slope in enumerate(slopes(sum(losses), *students), 1):
        same(slope, expected[f"grad64_student_{call}"], 1e-5)


def test_values_gradients_and_banks_of_torchdistill(reference):
    images, size = 64, 8
    theirs = reference.CRDLoss("student", "empty", "teacher", size, images, 5, images).double()
    objective = contrast(images, size, negatives=5)
    objective.banks.student.copy_(theirs.memory_v1)
    objective.banks.teacher.copy_(theirs.memory_v2)
    for step in range(3):
        student = directions(6, size, seed=step).requires_grad_()
        teacher = directions(6, size, seed=step + 9).requires_grad_()
        numbers = torch.randperm(images, generator=torch.Generator().manual_seed(step))
        chosen = torch.cat([numbers[:6, None], numbers[6:36].view(6, 5)], 1)
        expected = theirs(
            {"student": {"output": student}, "empty": {"input": {"pos_idx": numbers[:6], "contrast_idx": chosen}}},
            {"teacher": {"output": teacher}},
        )
        ours = objective.contrast(student, teacher, chosen)
        same(ours, expected, 1e-5)
        for own, other in zip(slopes(ours, student, teacher), slopes(expected, student, teacher), strict=True):
            same(own, other, 1e-5)
        same(objective.banks.student, theirs.memory_v1, 1e-5)
        same(objective.banks.teacher, theirs.memory_v2, 1e-5)


def test_gradients_are_those_of_finite_differences():
    objective = contrast(temperature=0.5)
    objective.build(
        Features(torch.zeros(1, 3), {"x": torch.zeros(1, 5, 2, 2)}),
        Features(torch.zeros(1, 3), {"x": torch.zeros(1, 6)}),
    )
    objective.double()
    chosen = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
    kept = {name: value.clone() for name, value in objective.banks.named_buffers()}
    kept["scales"] += 8.0

    def loss(student, teacher):
        for name, value in kept.items():
            getattr(objective.banks, name).copy_(value)
        objective.banks.steps = 1  # the constants stand
        return objective.contrast(objective.student_embedding(student), objective.teacher_embedding(teacher), chosen)

    assert agrees_with_differences(loss, random(2, 5, 2, 2), random(2, 6, seed=1))


def test_the_estimate_in_float32_has_five_digits_with_many_negatives():
    logs = random(4, 16385) * 3
    assert noise_contrast(logs.float(), 1_281_167).item() == pytest.approx(
        noise_contrast(logs, 1_281_167).item(), rel=1e-5
    )


def test_a_case_by_hand():
    """Two images, one negative: k/n = 1/2; h is 1/2 for both, so that each term is -log(1/2)."""
    logs = torch.full((2, 2), math.log(0.5), dtype=torch.float64)
    assert noise_contrast(logs, 2).item() == pytest.approx(2 * math.log(2), abs=1e-6)


@given(st.integers(0, 99), st.integers(1, 40))
def test_negatives_are_of_other_classes(seed, negatives):
    objective = contrast(negatives=negatives, seed=seed)
    targets = torch.tensor([0, 1, 2, 0])
    drawn = objective.draw(targets)
    assert drawn.shape == (4, negatives)
    assert (CLASSES[drawn] != targets[:, None]).all()


def test_every_image_of_another_class_is_drawn_as_often_as_any_other():
    counts = contrast(negatives=60_000).draw(torch.tensor([2])).flatten().bincount(minlength=10)
    assert counts[CLASSES == 2].tolist() == [0] * 4
    assert counts[CLASSES != 2].tolist() == pytest.approx([10_000] * 6, rel=0.05)


def test_draws_depend_on_the_step_alone():
    first, second = contrast(), contrast()
    targets = torch.tensor([0, 1, 2])
    torch.manual_seed(5)
    before = first.draw(targets)
    assert torch.equal(before, second.draw(targets))
    first.banks.steps += 1
    assert not torch.equal(before, first.draw(targets))


def test_banks_do_not_grow_and_rows_have_length_1():
    banks = Banks(4, seed=0)
    banks.begin(10)
    sizes = {name: value.shape for name, value in banks.named_buffers()}
    before = banks.student.clone()
    for step in range(5):
        banks.update(torch.tensor([1, 7]), directions(2, 4, seed=step).float(), directions(2, 4).float(), 0.5)
    assert {name: value.shape for name, value in banks.named_buffers()} == sizes
    assert banks.student.dtype == banks.teacher.dtype == torch.float32
    assert banks.student[[1, 7]].norm(dim=1).tolist() == pytest.approx([1, 1])
    rest = [0, 2, 3, 4, 5, 6, 8, 9]
    assert torch.equal(banks.student[rest], before[rest])
    assert not banks.student.requires_grad


def test_banks_keep_the_configured_share_of_the_old_row():
    """A right angle between old and new row: 0.8 of the one and 0.2 of the other, then scaled to length 1."""
    objective = contrast(momentum=0.8)
    old, new = torch.eye(4, dtype=torch.float64)[:2]
    for bank in (objective.banks.student, objective.banks.teacher):
        bank[5] = old
    objective.contrast(new[None], new[None], torch.tensor([[5, 0, 1, 2]]))
    expected = (0.8 * old + 0.2 * new) / math.hypot(0.8, 0.2)
    same(objective.banks.student[5], expected, 1e-12)
    same(objective.banks.teacher[5], expected, 1e-12)


def test_a_saved_objective_goes_on():
    first = contrast()
    chosen = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
    first.contrast(directions(2, 4), directions(2, 4, seed=1), chosen)
    second = contrast(seed=9)
    second.load_state_dict(first.state_dict())
    for objective in (first, second):
        objective.seed = 0
    targets = torch.tensor([0, 1])
    assert torch.equal(first.draw(targets), second.draw(targets))
    losses = [one.contrast(directions(2, 4, seed=2), directions(2, 4, seed=3), chosen) for one in (first, second)]
    assert losses[0] == losses[1]


def test_saved_banks_fit_where_a_student_is_only_tested_and_not_where_the_data_differ():
    saved = contrast().float().state_dict()
    tested = ContrastiveDistillation(layer="x", size=4, negatives=3)
    tested.load_state_dict(saved)
    assert torch.equal(tested.banks.student, saved["banks.student"])
    other = contrast(images=12).float()
    with pytest.raises(InputError, match="memory banks are of 10 training images, the data have 12"):
        other.load_state_dict(saved)


def _update(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    objective = contrast()
    chosen = torch.tensor([[[0, 1, 2, 3], [4, 3, 2, 1]], [[5, 1, 2, 3], [6, 3, 2, 1]]])[rank]
    torch.manual_seed(rank)
    drawn = objective.draw(torch.tensor([0, 1]))
    loss = objective.contrast(directions(2, 4, seed=rank), directions(2, 4, seed=rank + 5), chosen)
    torch.save({**objective.state_dict(), "loss": loss, "drawn": drawn}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_share_what_they_have_seen(tmp_path):
    multiprocessing.spawn(_update, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in ("banks.student", "banks.teacher", "banks.scales"):
        assert torch.equal(first[name], second[name])
    assert not torch.equal(first["drawn"], second["drawn"])
    whole = contrast()
    chosen = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1], [5, 1, 2, 3], [6, 3, 2, 1]])
    embedded = [torch.cat([directions(2, 4, seed=seed + rank) for rank in range(2)]) for seed in (0, 5)]
    loss = whole.contrast(*embedded, chosen)
    assert loss.item() == pytest.approx((first["loss"] + second["loss"]).item() / 2)
    for name in ("banks.student", "banks.teacher", "banks.scales"):
        same(first[name], whole.state_dict()[name])


def test_training_brings_embeddings_of_an_image_together():
    torch.manual_seed(0)
    objective = ContrastiveDistillation(layer="x", size=8, negatives=6, weight=1.0)
    maps = {side: random(10, 6, seed=seed).float() for seed, side in enumerate(("student", "teacher"))}
    logits = torch.zeros(10, 3)
    student, teacher = Features(logits, {"x": maps["student"]}), Features(logits, {"x": maps["teacher"]})
    objective.build(student, teacher)
    objective.begin(CLASSES)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(objective(student, teacher, CLASSES, torch.arange(10))["contrastive"])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    with torch.no_grad():
        alike = objective.student_embedding(maps["student"]) @ objective.teacher_embedding(maps["teacher"]).T
    others = alike[CLASSES[:, None] != CLASSES]
    assert alike.diagonal().mean() > others.mean() + 0.5


def test_mixed_precision_does_not_reach_the_comparison():
    objective = contrast().float()
    objective.student_embedding = objective.teacher_embedding = nn.Identity()
    chosen = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
    embedded = [directions(2, 4, seed=seed).float() for seed in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = objective.contrast(*embedded, chosen)
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(contrast().float().contrast(*embedded, chosen).item())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"size": 0}, "objective.size=0"),
        ({"negatives": 0}, "negatives=0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"temperature": 0.0}, "objective.temperature=0.0: expected more than 0"),
        ({"base_weight": 0.0}, "base_weight=0.0, weight=0.8: expected more than 0"),
    ],
)
def test_settings_out_of_range(options, complaint):
    with pytest.raises(InputError, match=complaint):
        ContrastiveDistillation(**{"layer": "x", **options})


def test_data_that_can_not_be_contrasted():
    objective = ContrastiveDistillation(layer="x")
    with pytest.raises(InputError, match="of one class"):
        objective.begin(torch.zeros(5, dtype=torch.int64))
    features = Features(torch.zeros(2, 3), {"x": torch.zeros(2, 4)})
    objective.build(features, features)
    with pytest.raises(InputError, match="needs an ImageDataModule"):
        objective(features, features, torch.tensor([0, 1]))
