from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from introspect.core.errors import InputError
from introspect.distillation.objectives import CrossEntropy, LabelSmoothing, LogitDistillation
from introspect.vision.features import Features


def batch(seed, rows=6, classes=5):
    numbers = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, classes, generator=numbers, dtype=torch.float64) * 3 for _ in range(2))
    return student, teacher, torch.randint(classes, (rows,), generator=numbers)


def total(objective, student, teacher, targets):
    return sum(objective(Features(student), Features(teacher), targets).values())


@pytest.mark.parametrize("name", ["kd_0", "kd_1", "kd_2", "ls_ce_0"])
def test_losses_and_gradients_equal_the_reference(golden, name):
    case, given_, expected = golden[name]
    student = given_["student_logits"].double().requires_grad_()
    teacher = given_.get("teacher_logits", given_["student_logits"]).double()
    settings = case["kwargs"]
    # Its alpha weighs the labels, ours the teacher.
    objective = (
        LogitDistillation(settings["temperature"], 1 - settings["alpha"])
        if case["cls"] == "KDLoss"
        else LabelSmoothing(settings["label_smoothing"])
    )
    loss = total(objective, student, teacher, given_["targets"])
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss64"].item(), rel=1e-6, abs=1e-9)
    assert torch.allclose(student.grad, expected["grad64_student_logits"].double(), rtol=1e-6, atol=1e-9)


def test_the_temperature_is_squared_where_the_reference_forgets_it(golden):
    case, given_, expected = golden["kd_no_targets"]
    student, teacher = given_["student_logits"].double(), given_["teacher_logits"].double()
    temperature = case["kwargs"]["temperature"]
    loss = total(LogitDistillation(temperature, 1.0), student, teacher, torch.zeros(len(student), dtype=torch.int64))
    assert loss.item() == pytest.approx(temperature**2 * expected["loss64"].item(), rel=1e-6)


@given(st.integers(0, 999), st.floats(0.1, 20), st.floats(0, 1))
def test_a_student_that_equals_its_teacher_has_only_the_labels_to_learn(seed, temperature, alpha):
    student, _, targets = batch(seed)
    losses = LogitDistillation(temperature, alpha)(Features(student), Features(student), targets)
    assert losses["logit"].item() == pytest.approx(0, abs=1e-9)
    assert losses["cross_entropy"].item() == pytest.approx((1 - alpha) * functional.cross_entropy(student, targets))


@given(st.integers(0, 999), st.floats(0.5, 20))
def test_a_divergence_is_never_negative(seed, temperature):
    student, teacher, targets = batch(seed)
    assert LogitDistillation(temperature, 1.0)(Features(student), Features(teacher), targets)["logit"] >= -1e-12


@given(st.integers(0, 999))
def test_alpha_0_and_no_smoothing_are_training_from_scratch(seed):
    student, teacher, targets = batch(seed)
    scratch = total(CrossEntropy(), student, teacher, targets)
    assert total(LogitDistillation(4.0, 0.0), student, teacher, targets).item() == pytest.approx(scratch.item())
    assert total(LabelSmoothing(0.0), student, teacher, targets).item() == pytest.approx(scratch.item())


@given(st.integers(0, 999), st.floats(0, 1))
def test_smoothing_mixes_the_label_with_all_classes(seed, smoothing):
    student, _, targets = batch(seed)
    wanted = (1 - smoothing) * functional.one_hot(targets, 5) + smoothing / 5
    expected = -(wanted * student.log_softmax(-1)).sum(-1).mean()
    assert total(LabelSmoothing(smoothing), student, student, targets).item() == pytest.approx(expected.item())


def test_high_temperatures_match_logits():
    """For T to infinity the gradient becomes that of matching centred logits (Hinton et al., section 2.1)."""
    student, teacher, targets = batch(0)
    student.requires_grad_()
    total(LogitDistillation(1e4, 1.0), student, teacher, targets).backward()
    difference = student - teacher
    expected = (difference - difference.mean(-1, keepdim=True)) / student.numel()
    assert torch.allclose(student.grad, expected.detach(), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: LogitDistillation(0.0), r"objective.temperature=0.0: expected more than 0"),
        (lambda: LogitDistillation(alpha=1.5), r"objective.alpha=1.5: expected a fraction from 0 to 1"),
        (lambda: LabelSmoothing(-0.1), r"objective.smoothing=-0.1: expected a fraction from 0 to 1"),
    ],
)
def test_settings_out_of_range(make, complaint):
    with pytest.raises(InputError, match=complaint):
        make()


def test_a_missing_or_foreign_teacher():
    student, _, targets = batch(0)
    with pytest.raises(InputError, match="needs a teacher"):
        LogitDistillation()(Features(student), None, targets)
    with pytest.raises(InputError, match="has 7 classes, the student 5"):
        LogitDistillation()(Features(student), Features(torch.zeros(6, 7)), targets)
