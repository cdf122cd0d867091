from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from introspect.callbacks.class_similarity import ClassSimilarity as Callback
from introspect.core.errors import InputError
from introspect.distillation.module import Distillation
from introspect.distillation.objectives import LogitDistillation, ShuffledLogitDistillation
from introspect.distillation.objectives.logit import shuffle_others
from introspect.distillation.similarity import ClassSimilarity, rank_correlation
from introspect.distillation.teacher import Teacher
from introspect.distillation.training import Training
from introspect.vision.datasets.files import COARSE, KINDS, groups_of
from introspect.vision.datasets.shapeworld import ShapeworldImages
from introspect.vision.features import Features
from tests.distillation.comparing import random
from tests.distillation.made import STUDENT, Colours, data, trainer
from tests.distillation.test_stages import TEACHER

GROUPS = [0, 0, 0, 1, 1, 2]


def found(logits, other, targets, groups=GROUPS, batches=1):
    metric = ClassSimilarity(groups, logits.shape[1])
    others = [None] * batches if other is None else other.chunk(batches)
    for one, two, right in zip(logits.chunk(batches), others, targets.chunk(batches), strict=True):
        metric.update(one, two, right)
    return metric


def test_cases_by_hand():
    """Equal logits within a group of three give ln 3; a group of one class has no entropy and does not count."""
    logits = torch.tensor([[1.0, 1, 1, 9, 9, 9], [5, 0, 0, math.log(3), 0, 0], [0, 0, 0, 0, 0, 9]])
    assert found(logits[:1], None, torch.tensor([1])).compute() == {"entropy": pytest.approx(math.log(3))}
    half = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert found(logits[1:2], None, torch.tensor([4])).compute()["entropy"] == pytest.approx(half)
    targets = torch.tensor([0, 4, 5])
    assert found(logits, None, targets).compute()["entropy"] == pytest.approx((math.log(3) + half) / 2)
    assert found(logits[2:], None, targets[2:]).compute() == {}
    assert found(logits, None, targets, groups=[]).compute() == {}


@settings(max_examples=25)
@given(st.integers(0, 999), st.integers(1, 4), st.floats(-9, 9))
def test_batches_shifts_and_other_groups_do_not_matter(seed, batches, shift):
    logits, other = random(12, 6, seed=seed), random(12, 6, seed=seed + 1)
    targets = torch.arange(12) % 6
    whole = found(logits, other, targets).compute()
    assert found(logits + shift, other - shift, targets, batches=batches).compute() == pytest.approx(whole, rel=1e-6)
    outside = logits.clone()
    outside[targets < 3, 3:] += shift  # of images of the first group, classes of the others
    assert found(outside, None, targets).compute()["entropy"] == pytest.approx(whole["entropy"])
    assert 0 <= whole["entropy"] <= math.log(3)
    assert 0 <= whole["cka"] <= 1 + 1e-9


def test_alignment_is_that_of_the_kernels():
    """The same by the definition on n x n kernels, centred by a matrix."""
    logits, other = random(20, 6), random(20, 6, seed=1)
    centre = torch.eye(20, dtype=torch.float64) - 1 / 20
    kernels = [
        centre @ (x - x.mean(1, keepdim=True)) @ (x - x.mean(1, keepdim=True)).T @ centre for x in (logits, other)
    ]
    expected = (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
    values = found(logits, other, torch.arange(20) % 6).compute()
    assert values["cka"] == pytest.approx(expected.item())
    same = found(logits, 3 * logits, torch.arange(20) % 6).compute()
    assert (same["cka"], same["rank_correlation"]) == (pytest.approx(1), pytest.approx(1))


def test_similarities_are_mean_logits_of_a_class():
    logits = torch.tensor([[3.0, 0, 0], [1, 0, 2], [0, 6, 0]])
    metric = found(logits, logits, torch.tensor([0, 0, 1]), groups=[])
    assert metric.matrices()[0].tolist() == [[1, -1, 0], [-2, 4, -2], [0, 0, 0]]


def test_rank_correlation_with_ties():
    one, other = torch.tensor([1.0, 2, 2, 9]), torch.tensor([10.0, 30, 20, 40])
    ranks = [[1, 2.5, 2.5, 4], [1, 3, 2, 4]]
    assert rank_correlation(one, other) == pytest.approx(torch.corrcoef(torch.tensor(ranks))[0, 1].item())
    assert rank_correlation(one, -one) == pytest.approx(-1)


def test_groups_of_the_data_sets():
    assert len(COARSE) == 20
    groups = groups_of(COARSE)
    assert [groups.count(number) for number in range(20)] == [5] * 20
    # As CIFAR-100's files have them: apple, aquarium_fish, baby, bear, beaver, …, wolf, woman, worm.
    assert groups[:9] == (4, 1, 14, 8, 0, 6, 7, 7, 18)
    assert groups[-8:] == (2, 15, 6, 0, 17, 8, 14, 13)
    assert groups_of(KINDS) == (0, 0, 1, 1, 1, 1, 1, 1, 0, 0)
    families = ShapeworldImages(sizes={"train": 1, "validation": 1, "test": 1}).groups
    assert families == tuple(number for number in range(6) for _ in range(3))
    with pytest.raises(InputError, match="2 classes have a group, there are 3"):
        ClassSimilarity([0, 1], 3)


@given(st.integers(0, 999))
def test_shuffled_logits_are_as_soft_and_right_as_before(seed):
    torch.manual_seed(seed)
    logits, targets = random(5, 7, seed=seed), torch.tensor([0, 6, 3, 3, 1])
    shuffled = shuffle_others(logits, targets)
    assert torch.equal(shuffled.gather(1, targets[:, None]), logits.gather(1, targets[:, None]))
    assert torch.equal(shuffled.sort(1).values, logits.sort(1).values)
    assert not torch.equal(shuffled, logits)


def test_every_permutation_of_the_others_occurs_as_often():
    torch.manual_seed(0)
    rows = shuffle_others(torch.arange(4.0).repeat(6000, 1), torch.full((6000,), 1))
    kinds, counts = rows.unique(dim=0, return_counts=True)
    assert len(kinds) == 6
    assert counts.tolist() == pytest.approx([1000] * 6, rel=0.15)


def test_a_shuffled_teacher_is_a_teacher_otherwise():
    student, teacher, targets = random(4, 2), random(4, 2, seed=1), torch.tensor([0, 1, 0, 1])
    pair = Features(student), Features(teacher)
    expected = LogitDistillation(2.0, 0.3)(*pair, targets)
    assert (
        ShuffledLogitDistillation(2.0, 0.3)(*pair, targets) == expected
    )  # of two classes, one is another's only other
    with pytest.raises(InputError, match="needs a teacher"):
        ShuffledLogitDistillation()(pair[0], None, targets)


class Grouped(Colours):
    groups = (0, 0, 1)


def test_a_test_reports_similar_classes(tmp_path):
    images = Grouped()
    teacher = Teacher(TEACHER, tmp_path, training=Training(epochs=1))
    module = Distillation(student=STUDENT, objective=LogitDistillation(), teacher=teacher)
    callback = Callback(images=images, folder=tmp_path / "run")
    run, served = trainer(tmp_path, callbacks=[callback]), data(images=images, batch_size=10)
    run.fit(module, served)
    run.test(module, served, verbose=False)
    metrics = run.callback_metrics
    assert 0 < metrics["test/class_entropy"] <= math.log(2)
    assert 0 < metrics["test/teacher_class_entropy"] <= math.log(2)
    assert 0 <= metrics["test/logit_cka"] <= 1
    assert -1 <= metrics["test/similarity_rank_correlation"] <= 1
    written = json.loads((tmp_path / "run" / "class_similarity.json").read_text())
    assert written["groups"] == [0, 0, 1]
    test = images.load("test")
    with torch.no_grad():
        logits = module.eval()(test.images).double()
    expected = (logits - logits.mean(1, keepdim=True))[test.targets == 1].mean(0)
    assert written["student"][1] == pytest.approx(expected.tolist(), abs=1e-4)
    assert written["student"] != written["teacher"]
