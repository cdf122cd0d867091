from __future__ import annotations

import torch
from hydra.utils import instantiate

from introspect.distillation.backbones import Backbone
from introspect.distillation.datasets.shapeworld import ShapeworldImages
from introspect.distillation.teacher import Teacher, Training, plain_settings
from tests.composing import compose_config

NETWORK = Backbone("cifar_resnet8", 3, width=4)


def test_what_the_configs_make_is_what_code_makes(tmp_path):
    """The lists of a config are of another type; the file of the teacher must be the same."""
    cfg = compose_config("train", ["experiment=kd"], tmp_path)
    composed = instantiate(cfg.model.teacher)
    given = plain_settings(cfg.model.teacher.training)
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
    teacher.keep(network, "data")
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
