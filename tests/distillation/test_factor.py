from __future__ import annotations

import pytest
import torch
from torch import nn

from introspect.core.errors import InputError
from introspect.distillation.objectives import FactorTransfer
from introspect.distillation.objectives.factor import Paraphraser, distance, translator
from introspect.distillation.training import Training
from introspect.vision.features import Features
from tests.distillation.comparing import agrees_with_differences, random, same, slopes

HOW = Training(epochs=1)


def maps(units, seed=0):
    return Features(torch.zeros(2, 3), {"x": random(2, units, 4, 4, seed=seed).float()})


@pytest.mark.parametrize(("name", "p"), [("ft_0", 1), ("ft_1", 2)])
def test_golden_values_and_gradients(golden, name, p):
    _, given_, expected = golden[name]
    student = given_["translator_output"].double().requires_grad_()
    loss = distance(student, given_["paraphraser_output"].double(), p)
    same(loss, expected["loss64"])
    same(slopes(loss, student)[0], expected["grad64_translator_output"])


@pytest.mark.parametrize("p", [1, 2])
def test_values_and_gradients_of_torchdistill(reference, p):
    student, teacher = random(3, 4, 5, 5).requires_grad_(), random(3, 4, 5, 5, seed=1)
    theirs = reference.FTLoss(p=p)
    expected = theirs({"translator": {"output": student}}, {"paraphraser": {"output": teacher}})
    ours = distance(student, teacher, p)
    same(ours, expected)
    same(*(slopes(loss, student)[0] for loss in (ours, expected)))


def test_the_networks_are_those_of_torchdistill(reference):
    from torchdistill.models.wrapper import Paraphraser4FactorTransfer

    theirs = Paraphraser4FactorTransfer(k=0.5, num_input_channels=6, uses_bn=False)
    ours = Paraphraser("x", 6, 3, HOW)
    ours.load_state_dict(theirs.state_dict())
    taught = maps(6)
    expected = nn.functional.mse_loss(theirs(taught.maps["x"]), taught.maps["x"])
    torch.testing.assert_close(ours.loss(taught), expected)


@pytest.mark.parametrize("p", [1, 2])
def test_gradients_are_those_of_finite_differences(p):
    assert agrees_with_differences(lambda factors: distance(factors, random(2, 3, 2, 2, seed=1), p), random(2, 3, 2, 2))


def test_gradients_of_translator_and_paraphraser():
    layers = translator(2, 1).double()
    assert agrees_with_differences(
        lambda value: distance(layers(value), random(2, 1, 3, 3)), random(2, 2, 3, 3, seed=4)
    )
    stage = Paraphraser("x", 2, 1, HOW).double()
    taught = Features(torch.zeros(2, 3), {"x": random(2, 2, 3, 3)})
    weight = stage.encoder[0].weight
    (slope,) = torch.autograd.grad(stage.loss(taught), weight)
    with torch.no_grad():
        for place in [(0, 0, 0, 0), (1, 1, 2, 1)]:
            kept = weight[place].item()
            ends = []
            for step in (1e-6, -1e-6):
                weight[place] = kept + step
                ends.append(stage.loss(taught).item())
            weight[place] = kept
            assert slope[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-9)


def test_a_student_of_other_width_learns_the_factors():
    """Only the translator is trained with the student; the paraphraser is no part of the objective's weights."""
    torch.manual_seed(0)
    objective = FactorTransfer(layer="x", paraphraser=HOW, weight=1.0)
    objective.build(maps(4), maps(6))
    assert objective.translator(maps(4).maps["x"]).shape == (2, 3, 4, 4)
    assert {name.split(".")[0] for name in objective.state_dict()} == {"translator"}
    student, teacher, targets = maps(4), maps(6, seed=1), torch.tensor([0, 1])
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(objective(student, teacher, targets)["factor"])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2


def test_the_paraphraser_begins_alike_for_every_seed_of_a_student():
    stages = []
    for seed in range(2):
        torch.manual_seed(seed)
        objective = FactorTransfer(layer="x", paraphraser=HOW)
        objective.build(maps(4), maps(6))
        stages.append(objective.stage.state_dict())
    assert all(torch.equal(value, stages[1][name]) for name, value in stages[0].items())


def test_maps_of_zeros_have_finite_gradients():
    factors = torch.zeros(2, 3, 4, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(distance(factors, torch.rand(2, 3, 4, 4)), factors)
    assert slope.isfinite().all()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"p": 3}, "objective.p=3: expected 1 or 2"),
        ({"rate": 1.5}, "objective.rate=1.5"),
        ({"rate": 0.1}, "rate=0.1: leaves no factor of the 6 units of x"),
        ({"paraphraser": Training(label_smoothing=0.1)}, "Paraphraser learns from no labels"),
    ],
)
def test_settings_out_of_range(options, complaint):
    with pytest.raises(InputError, match=complaint):
        FactorTransfer(**{"layer": "x", "paraphraser": HOW, **options}).build(maps(4), maps(6))
