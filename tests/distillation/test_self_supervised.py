from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from introspect.core.errors import InputError
from introspect.distillation.objectives import LogitDistillation, SelfSupervisedDistillation
from introspect.distillation.objectives.logit import soft_divergence
from introspect.distillation.objectives.self_supervised import (
    SelfSupervision,
    rotated_rows,
    rotations,
    similarities,
    trusted,
)
from introspect.distillation.training import Training
from introspect.vision.features import Features
from tests.distillation.comparing import agrees_with_differences, random, same, slopes, total

HOW = Training(epochs=1)


def bare(**options):
    """The objective on representations: without heads."""
    objective = SelfSupervisedDistillation(layer="x", head=HOW, **options)
    objective.head = nn.Identity()
    stage = SelfSupervision("x", 3, HOW)
    stage.head = nn.Identity()
    objective._stage = [stage]
    return objective


def test_golden_values_and_gradients(golden):
    case, given_, expected = golden["sskd_0"]
    settings = case["kwargs"]
    cross_entropy, divergence, similar, rotated = settings["loss_weights"]
    # Their sum of two weights is our base's weight, shared by its alpha.
    weight = cross_entropy + divergence
    objective = bare(
        temperature=settings["ss_temp"],
        rotated_temperature=settings["tf_temp"],
        kept=settings["ss_ratio"],
        rotated_kept=settings["tf_ratio"],
        weight=similar,
        rotated_weight=rotated,
        base=LogitDistillation(settings["kl_temp"], divergence / weight),
        base_weight=weight,
    )
    inputs = [given_[name].double().requires_grad_() for name in ("student_logits", "student_ss")]
    student = inputs[0], {"x": inputs[1]}
    teacher = given_["teacher_logits"].double(), {"x": given_["teacher_ss"].double()}
    losses = objective(Features(*student), Features(*teacher), given_["targets"])
    parts = {"cross_entropy": "ce", "logit": "kl", "similarity": "ss", "rotated": "tf"}
    for (name, part), factor in zip(parts.items(), settings["loss_weights"], strict=True):
        same(losses[name], factor * expected[f"{part}_loss64"])
    loss = sum(losses.values())
    same(loss, expected["loss64"])
    for name, slope in zip(("student_logits", "student_ss"), slopes(loss, *inputs), strict=True):
        same(slope, expected[f"grad64_{name}"])
    alike = similarities(teacher[1]["x"])
    right = torch.arange(6).repeat_interleave(3)
    assert trusted(alike, right, 0.75).nonzero()[:, 0].tolist() == expected["distill_index_ss64"].tolist()


def test_golden_values_and_gradients_of_the_first_stage(golden):
    _, given_, expected = golden["aux_sskd_0"]
    stage = SelfSupervision("x", 3, HOW)
    stage.head = nn.Identity()
    representations = given_["ss"].double().requires_grad_()
    loss = stage.loss(Features(torch.zeros(24, 2), {"x": representations}))
    same(loss, expected["loss64"])
    same(slopes(loss, representations)[0], expected["grad64_ss"])


@pytest.mark.parametrize("seed", range(3))
def test_values_and_gradients_of_torchdistill(reference, seed):
    """All rows count: which of those with one rank are kept is left open by the reference."""
    theirs = reference.SSKDLoss("fc", "fc", "ss", "ss", 4.0, 0.5, 4.0, 1.0, 1.0, loss_weights=[1.0, 0.0, 10.0, 2.7])
    inputs = [random(20, size, seed=seed + size).requires_grad_() for size in (7, 5)]
    teacher = [random(20, size, seed=seed + 50 + size) for size in (7, 6)]
    targets = torch.arange(5)
    expected = theirs(
        {"fc": {"output": inputs[0]}, "ss": {"output": inputs[1]}},
        {"fc": {"output": teacher[0]}, "ss": {"output": teacher[1]}},
        targets,
    )
    ours = total(bare(kept=1.0), (inputs[0], {"x": inputs[1]}), (teacher[0], {"x": teacher[1]}), targets)
    same(ours, expected)
    for own, other in zip(slopes(ours, *inputs), slopes(expected, *inputs), strict=True):
        same(own, other)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    objective = SelfSupervisedDistillation(layer="x", head=HOW)
    shapes = [Features(torch.zeros(1, 4), {"x": torch.zeros(1, units, 2, 2)}) for units in (3, 5)]
    objective.build(*shapes)
    objective.double().stage.double()
    teacher = random(12, 4, seed=7), {"x": random(12, 5, 2, 2, seed=8)}

    def loss(logits, maps):
        return total(objective, (logits, {"x": maps}), teacher, torch.tensor([0, 1, 2]))

    assert agrees_with_differences(loss, random(12, 4), random(12, 3, 2, 2, seed=1))
    stage = objective.stage
    assert agrees_with_differences(
        lambda maps: stage.loss(Features(torch.zeros(12, 4), {"x": maps})), random(12, 5, 2, 2, seed=3)
    )


def test_four_views_of_an_image():
    images = torch.arange(18.0).view(2, 1, 3, 3)
    views = rotations(images).unflatten(0, (2, 4))
    assert torch.equal(views[:, 0], images)
    assert views[0, 1, 0].tolist() == [[2, 5, 8], [1, 4, 7], [0, 3, 6]]  # counterclockwise
    assert torch.equal(views[:, 2], images.flip((2, 3)))
    assert torch.equal(torch.rot90(views[:, 3], 1, (2, 3)), images)
    assert torch.equal(rotated_rows(rotations(images)), views[:, 1:].flatten(0, 1))
    with pytest.raises(InputError, match=r"square images, these have \[2, 3\]"):
        rotations(torch.zeros(1, 3, 2, 3))


@pytest.mark.parametrize("batch", [1, 2, 19])
def test_a_batch_of_any_size_has_its_views(batch):
    student = random(4 * batch, 3), {"x": random(4 * batch, 5)}
    teacher = random(4 * batch, 3, seed=1), {"x": random(4 * batch, 6, seed=1)}
    assert total(bare(), student, teacher, torch.zeros(batch, dtype=torch.int64)).isfinite()


def test_which_rows_count():
    """Two right, three wrong with ranks 1, 2 and 2: half of three, rounded down, is the one of rank 1."""
    scores = torch.tensor([[3.0, 1, 2], [1, 2, 3], [3, 2, 1], [3, 2, 1], [0, 1, 2]])
    right = torch.tensor([0, 2, 1, 2, 0])
    assert trusted(scores, right, 0.5).tolist() == [1, 1, 1, 0, 0]
    assert trusted(scores, right, 0.7).tolist() == [1, 1, 1, 1, 0]
    assert trusted(scores, right, 0.0).tolist() == [1, 1, 0, 0, 0]
    assert trusted(scores, right, 1.0).tolist() == [1] * 5


def test_where_no_row_counts_there_is_no_loss():
    scores = torch.tensor([[1.0, 2.0]])
    rows = trusted(scores, torch.tensor([0]), 0.5)
    assert soft_divergence(scores, scores.flip(1), 1.0, rows).item() == 0


@given(st.integers(0, 999), st.floats(0, 1))
def test_more_is_kept_with_a_larger_share_and_the_right_ones_always(seed, kept):
    scores = random(12, 5, seed=seed)
    right = torch.arange(12) % 5
    rows = trusted(scores, right, kept).bool()
    assert rows[scores.argmax(1) == right].all()
    assert not (rows & ~trusted(scores, right, 1.0).bool()).any()


@given(st.integers(0, 999))
def test_a_student_that_represents_as_its_teacher_has_nothing_to_learn(seed):
    representations = random(16, 5, seed=seed)
    assert bare().similarity(3 * representations, representations).item() == pytest.approx(0, abs=1e-12)
    logits = random(16, 4, seed=seed)
    assert bare().rotated(logits, logits, torch.arange(4)).item() == pytest.approx(0, abs=1e-12)


def test_only_the_students_head_is_among_its_weights():
    objective = SelfSupervisedDistillation(layer="x", head=HOW)
    shapes = [Features(torch.zeros(1, 4), {"x": torch.zeros(1, units, 2, 2)}) for units in (3, 5)]
    objective.build(*shapes)
    assert {name.split(".")[0] for name in objective.state_dict()} == {"head"}
    assert sum(p.numel() for p in objective.parameters()) == 2 * (3 * 3 + 3)
    assert sum(p.numel() for p in objective.stage.parameters()) == 2 * (5 * 5 + 5)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"kept": 1.5}, "objective.kept=1.5"),
        ({"rotated_kept": -1.0}, "objective.rotated_kept=-1.0"),
        ({"temperature": 0.0}, "objective.temperature=0.0"),
        ({"rotated_weight": -1.0}, "rotated_weight=-1.0: expected at least 0"),
    ],
)
def test_settings_out_of_range(options, complaint):
    with pytest.raises(InputError, match=complaint):
        bare(**options)
