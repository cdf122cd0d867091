"""Attributions: what the methods give for networks of which it is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from introspect.core.errors import InputError
from introspect.dissection.measures.attribution import METHODS, Attribution, gradients, with_relu_modules
from introspect.dissection.measures.images import PixelNetwork, frozen
from introspect.vision.backbones import Backbone
from tests.dissection.measures.made import Sides, plain, without

pytest.importorskip("captum", reason="an extra that only attributions need")


class Called(nn.Module):
    """Calls one ReLU twice, and the function besides; the same thing three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.linear = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = functional.relu(self.relu(self.conv(images)) - 0.1)
        return self.linear(self.relu(maps - 0.1).mean((2, 3)))


class Changed(nn.Module):
    """Changes in place what it reads again: with another ReLU it is another network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.linear = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return self.linear((self.relu(maps) + maps).mean((2, 3)))


class Broken(Sides):
    """Has no finite gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images - images).sqrt())


def pixels(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients", "gradient_shap"])
def test_of_a_linear_network(method: str) -> None:
    """Each value says its weight times itself; random baselines of a thousandth move it a little."""
    network = Sides()
    images, targets = pixels(), torch.tensor([0, 1])
    found = Attribution(PixelNetwork(network, plain), method)(method, images, targets)
    expected = images * network.weight.detach()[targets] * 255
    torch.testing.assert_close(found, expected, atol=5e-3 if method == "gradient_shap" else 1e-5, rtol=1e-4)


def test_a_network_that_another_relu_would_change_is_refused() -> None:
    torch.manual_seed(0)
    attribution = Attribution(PixelNetwork(Changed().eval(), plain), "guided_backprop")
    with pytest.raises(InputError, match="methods=guided_backprop: the network puts out something else"):
        attribution("guided_backprop", pixels(), torch.tensor([0, 1]))


def test_gradients_that_are_not_finite() -> None:
    with pytest.raises(InputError, match="gradients are not finite"):
        gradients(Broken(), pixels(), torch.tensor([0, 1]))


def test_saliency_has_no_sign() -> None:
    found = Attribution(PixelNetwork(Sides(), plain), "saliency")("saliency", pixels(), torch.tensor([0, 0]))
    assert found.min() == 0
    assert found.max() == pytest.approx(1)


@pytest.mark.parametrize("network", [Called(), Backbone("cifar_resnet8", 5, width=4).build()])
def test_a_traced_network_is_the_same_with_a_module_per_relu(network: nn.Module) -> None:
    network.eval()
    names = [name for name, _ in network.named_modules()]
    traced = with_relu_modules(network)
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(traced(images), network(images))
    calls = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    relus = [name for name in calls if isinstance(traced.get_submodule(name), nn.ReLU)]
    assert len(relus) == len(set(relus)) == (3 if isinstance(network, Called) else 7)
    assert not any(node.target in (functional.relu, torch.relu) for node in traced.graph.nodes)
    assert [name for name, _ in network.named_modules()] == names


def test_guided_backpropagation_is_guided_through_functions_too() -> None:
    """Where a plain gradient is negative on its way back, the guided one is 0: with F.relu Captum would not see it."""

    class Opposed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            kept = functional.relu(images.mean((1, 2, 3)) + 1)
            return torch.stack([-kept, kept], 1)

    guided = Attribution(PixelNetwork(Opposed(), plain), ["guided_backprop", "saliency"])
    images = pixels(1)
    assert guided("saliency", images, torch.tensor([0])).min() > 0
    assert not guided("guided_backprop", images, torch.tensor([0])).any()
    assert guided("guided_backprop", images, torch.tensor([1])).min() > 0


def test_deep_lift_and_integrated_gradients_sum_to_the_difference_of_the_logits() -> None:
    torch.manual_seed(0)
    model = PixelNetwork(Called().eval(), lambda x: x / 255)
    images, targets = pixels(3), torch.tensor([0, 1, 1])
    difference = (model(images) - model(torch.zeros_like(images))).gather(1, targets[:, None])[:, 0].detach()
    attribute = Attribution(model, ["deep_lift", "integrated_gradients"], steps=300)
    for method in attribute.methods:
        total = attribute(method, images, targets).sum((1, 2, 3))
        torch.testing.assert_close(total, difference, atol=2e-3, rtol=0.02)


def test_every_method_runs_on_our_networks_and_leaves_them_as_they_were() -> None:
    network = Backbone("cifar_resnet8", 5, width=4).build().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    with frozen(network, torch.device("cpu")):
        attribute = Attribution(PixelNetwork(network, lambda x: x / 100), list(METHODS), steps=4)
        for method in METHODS:
            found = attribute(method, pixels(), torch.tensor([1, 2]))
            assert found.shape == (2, 3, 8, 8)
            assert found.isfinite().all()
            assert found.any()
            torch.testing.assert_close(attribute(method, pixels(), torch.tensor([1, 2])), found)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert not module._forward_pre_hooks


class Branching(nn.Module):
    """Can not be traced."""

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(images if images.sum() > 0 else -images).mean((2, 3))


@pytest.mark.parametrize(
    ("network", "methods", "options", "message"),
    [
        (Sides(), "salience", {}, "methods=salience: expected some of saliency, .*did you mean saliency"),
        (Sides(), [], {}, "methods: name at least one"),
        (Branching(), "deep_lift", {}, "methods=deep_lift: needs a network that torch.fx can trace"),
        (Sides(), "guided_backprop", {}, "follows the ReLUs of a network, and this one has none"),
        (Called(), "guided_grad_cam", {"layer": "cnv"}, "layer=cnv: .*convolutions are conv"),
        (Sides(), "saliency", {"steps": 0}, "steps=0: expected a whole number from 1"),
    ],
)
def test_impossible_attributions(network: nn.Module, methods: object, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Attribution(PixelNetwork(network, plain), methods, **options)


def test_captum_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with without("captum", monkeypatch):
        Attribution(PixelNetwork(Sides(), plain), "saliency")


def test_gradients_of_loss_and_logit() -> None:
    network = Sides()
    images, classes = pixels(3), torch.tensor([0, 1, 1])
    model = PixelNetwork(network, plain)
    found, logits = gradients(model, images, classes, "logit")
    weight = network.weight.detach() * 255
    torch.testing.assert_close(found, weight[classes])
    torch.testing.assert_close(logits, model(images).detach())
    found, _ = gradients(model, images, classes)
    rest = logits.softmax(1) - functional.one_hot(classes, 2)
    torch.testing.assert_close(found, torch.einsum("nk,kchw->nchw", rest, weight))
