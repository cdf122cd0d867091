from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from introspect.core.errors import InputError
from introspect.core.nested import to_plain
from introspect.distillation.module import Distillation
from introspect.distillation.objectives import CrossEntropy
from introspect.distillation.teacher import Teacher
from introspect.distillation.training import Training
from introspect.vision.backbones import Backbone
from introspect.vision.datasets.shapeworld import ShapeworldImages
from tests.composing import compose_config

NETWORK = Backbone("cifar_resnet8", 3, width=4)


def test_what_the_configs_make_is_what_code_makes(tmp_path):
    """The lists of a config are of another type; the file of the teacher must be the same."""
    cfg = compose_config("train", ["experiment=kd"], tmp_path)
    composed = instantiate(cfg.model.teacher)
    given = to_plain(cfg.model.teacher.training)
    training = Training(**{name: value for name, value in given.items() if name != "_target_"})
    assert composed.file("data") == Teacher(composed.backbone, composed.cache_dir, training=training).file("data")


def test_a_file_of_its_own_for_every_setting(tmp_path):
    teachers = [
        Teacher(NETWORK, tmp_path),
        Teacher(Backbone("cifar_resnet14", 3, width=4), tmp_path),
        Teacher(NETWORK, tmp_path, training=Training(epochs=3)),
        Teacher(NETWORK, tmp_path, training=Training(seed=1)),
    ]
    files = {teacher.file(data) for teacher in teachers for data in ("these", "those")}
    assert len(files) == 8
    assert Teacher(NETWORK, tmp_path).file("these") in files


def test_a_kept_teacher_comes_back_frozen(tmp_path):
    teacher = Teacher(NETWORK, tmp_path / "teachers")
    network = NETWORK.build()
    teacher.save(network, "data")
    found = teacher.load("data")
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    assert [path.suffix for path in (tmp_path / "teachers").iterdir()] == [".safetensors"]


def test_the_images_decide_too():
    sizes = {"train": 4, "validation": 4, "test": 4}
    worlds = [ShapeworldImages(sizes=sizes, side=16, seed=seed) for seed in (0, 0, 1)]
    assert worlds[0].identity == worlds[1].identity != worlds[2].identity


def test_weights_that_are_not_finite_are_no_teacher(tmp_path):
    network = NETWORK.build()
    network.conv1.weight.data[0] = torch.nan
    with pytest.raises(InputError, match=r"diverged \(conv1.weight is not finite\)"):
        Teacher(NETWORK, tmp_path).save(network, "data")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_network_or_of_other_pixels(tmp_path):
    made = Distillation(student=replace(NETWORK, stem_stride=2), objective=CrossEntropy())
    checkpoint = {"state_dict": made.state_dict(), "hyper_parameters": dict(made.hparams), "epoch": 0}
    torch.save({**checkpoint, "global_step": 0, "pytorch-lightning_version": "2.6.0"}, tmp_path / "x.ckpt")
    teacher = Teacher(NETWORK, tmp_path, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=r"built with stem_stride=1 where it has 2$"):
        teacher.load("", "imagenet")
    same = replace(teacher, backbone=replace(NETWORK, stem_stride=2))
    with pytest.raises(InputError, match="built with normalization=reference where it has imagenet"):
        same.load("", "reference")
    assert same.load("", "imagenet").conv1.stride == (2, 2)


@pytest.mark.parametrize("depth", [20, 56])
def test_published_weights_by_their_config(depth, tmp_path):
    """`cifar_resnet20` by name is the published network; what is made for shapeworld has another name."""
    chosen = [f"backbone@model.student=cifar_resnet{depth}", f"backbone@model.teacher.backbone=cifar_resnet{depth}"]
    cfg = compose_config("train", ["experiment=kd", *chosen], tmp_path)
    assert cfg.model.student.stem_stride == cfg.model.teacher.backbone.stem_stride == 1
    default = compose_config("train", ["experiment=kd"], tmp_path)
    assert default.model.student.stem_stride == default.model.teacher.backbone.stem_stride == 2
