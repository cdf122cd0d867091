from __future__ import annotations

from functools import partial

import pytest
import torch

from introspect.core.errors import InputError
from introspect.vision.backbones import Backbone
from introspect.vision.features import CompiledFeatures, features


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (32, 464_154), (56, 853_018)])
def test_sizes_are_the_published_ones(depth, parameters):
    network = Backbone(f"cifar_resnet{depth}", 10).build()
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_features_are_logits_and_maps_with_gradients():
    network = Backbone("cifar_resnet8", 7, width=4, stem_stride=2).build()
    found = features(network, torch.randn(2, 3, 32, 32), ["layer2", "layer3"])
    assert found.logits.shape == (2, 7)
    assert {name: tuple(maps.shape) for name, maps in found.maps.items()} == {
        "layer2": (2, 8, 8, 8),
        "layer3": (2, 16, 4, 4),
    }
    assert found.maps["layer3"].requires_grad
    assert not network.layer3._forward_hooks


def test_any_classifier_of_torchvision():
    network = Backbone("mobilenet_v3_small", 5).build().eval()
    assert features(network, torch.randn(1, 3, 64, 64)).logits.shape == (1, 5)


@pytest.mark.parametrize(
    ("backbone", "complaint"),
    [
        (
            Backbone("resnet19", 10),
            "torchvision has no such classifier; close are resnet1.*; also cifar",
        ),
        (Backbone("cifar_resnet21", 10), r"the depth must be 6n \+ 2"),
        (Backbone("cifar_resnet20", 10, weights="DEFAULT"), "no published weights by name"),
        (Backbone("resnet18", 10, weights="MINE"), "weights=MINE: resnet18 has no such weights"),
        (Backbone("resnet18", 1), "classes=1: resnet18 needs 2 or more"),
    ],
)
def test_impossible_backbones(backbone, complaint):
    with pytest.raises(InputError, match=complaint):
        backbone.build()


def test_an_unknown_layer_lists_those_that_are_close():
    with pytest.raises(InputError, match="did you mean layer"):
        features(Backbone("cifar_resnet8", 3).build(), torch.zeros(1, 3, 16, 16), ["layer4"])


def test_what_is_compiled_reads_the_same_layers_and_leaves_the_network(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    network = Backbone("cifar_resnet8", 3, width=4).build().eval()
    names = list(network.state_dict())
    read = CompiledFeatures(network, ["layer1", "layer3"])
    for count in (2, 2, 3):
        images = torch.randn(count, 3, 16, 16)
        found, expected = read(images), features(network, images, ["layer1", "layer3"])
        torch.testing.assert_close(found.logits, expected.logits)
        torch.testing.assert_close(dict(found.maps), dict(expected.maps))
        network(images)  # which leaves its maps too
    assert list(network.state_dict()) == names
    read.close()
    assert not network.layer3._forward_hooks
    torch._dynamo.reset()


def test_logits_are_float32_at_least():
    network = Backbone("cifar_resnet8", 3, width=4).build()
    images = torch.randn(2, 3, 16, 16)
    assert features(network.bfloat16(), images.bfloat16()).logits.dtype == torch.float32
    assert features(network.double(), images.double()).logits.dtype == torch.float64
