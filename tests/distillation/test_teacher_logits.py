from __future__ import annotations

import logging
import multiprocessing
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from introspect.core.errors import InputError
from introspect.distillation.datamodule import ImageDataModule
from introspect.distillation.module import Distillation
from introspect.distillation.objectives import (
    AttentionTransfer,
    LogitDistillation,
    SelfSupervisedDistillation,
    ShuffledLogitDistillation,
)
from introspect.distillation.teacher import Teacher
from introspect.distillation.teacher_logits import TeacherLogits, logits_file, pixel_digests
from introspect.distillation.training import Training
from introspect.vision.backbones import Backbone
from tests.distillation import made
from tests.distillation.made import STUDENT, Colours

TEACHER = Backbone("cifar_resnet14", 3, width=4)


trainer = partial(made.trainer, epochs=2)
images = partial(made.data, shift=0, mirror=False)


def student(folder, *, cache=True, objective=LogitDistillation, **options):
    torch.manual_seed(1)
    teacher = Teacher(TEACHER, folder, ckpt_path=folder / "teacher.safetensors", cache=cache)
    return Distillation(student=STUDENT, objective=objective(), teacher=teacher, lr=0.02, **options)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    Teacher(TEACHER, tmp_path).save(TEACHER.build(), "").rename(tmp_path / "teacher.safetensors")
    return tmp_path


def weights(folder, data=None, precision="32-true", **options):
    module = student(folder, **options)
    trainer(folder, precision=precision).fit(module, data or images())
    return module.student.state_dict()


@pytest.mark.parametrize("objective", [LogitDistillation, ShuffledLogitDistillation])
def test_what_is_learnt_is_the_same(folder, objective):
    fresh = weights(folder, cache=False, objective=objective)
    assert not list(folder.glob("logits-*"))
    for _ in range(2):  # where it is made, and where it is read
        kept = weights(folder, objective=objective)
        assert all(torch.equal(value, kept[name]) for name, value in fresh.items())
    assert len(list(folder.glob("logits-*.npy"))) == 1
    assert not list(folder.glob("*.partial"))


def test_the_teacher_is_asked_once_about_each_image(folder, monkeypatch):
    weights(folder)
    asked = []
    build = Backbone.build

    def count(module, inputs, output):
        if output.device.type != "meta":  # those only tell a shape
            asked.append(len(output))

    def counting(self):
        network = build(self)
        if self.name == TEACHER.name:
            network.register_forward_hook(count)
        return network

    monkeypatch.setattr(Backbone, "build", counting)
    weights(folder)
    assert sum(asked) == 24  # the validation images, on which it is examined
    asked.clear()
    weights(folder, cache=False)
    assert sum(asked) == 24 + 2 * 96


@pytest.mark.parametrize(
    ("change", "files"),
    [
        ({"data": images(images=Colours(seed=1))}, 2),
        ({"normalization": "reference"}, 2),
        ({"precision": "bf16-mixed"}, 2),
        ({"data": images(batch_size=48)}, 1),
        ({"objective": ShuffledLogitDistillation}, 1),
    ],
)
def test_its_name_has_what_the_logits_depend_on(folder, change, files):
    weights(folder)
    weights(folder, **change)
    assert len(list(folder.glob("logits-*.npy"))) == files


def test_another_teacher_has_another_file(folder):
    run, data = trainer(folder), images()
    source = Teacher(TEACHER, folder)
    network = TEACHER.build()
    first = logits_file(source, network, data, run, "imagenet")
    with torch.no_grad():
        network.linear.bias[0] += 1e-3
    assert logits_file(source, network, data, run, "imagenet") != first


@pytest.mark.parametrize("options", [{"shift": 1}, {"mirror": True}, {"shift": None}])
def test_augmented_images_are_refused_before_a_teacher_is_trained(tmp_path, options):
    teacher = Teacher(TEACHER, tmp_path / "teachers", training=Training(epochs=1), cache=True)
    module = Distillation(student=STUDENT, objective=LogitDistillation(), teacher=teacher)
    with pytest.raises(InputError, match=r"shifted, mirrored or cropped.*datamodule.shift=0 datamodule.mirror=false"):
        trainer(tmp_path).fit(module, images(**options))
    assert not (tmp_path / "teachers").exists()


def test_images_that_are_cropped_as_they_are_read_are_refused(folder):
    cropped = Colours()
    cropped.crops = True
    with pytest.raises(InputError, match="cropped"):
        trainer(folder).fit(student(folder), images(images=cropped))


@pytest.mark.parametrize(
    "objective",
    [
        lambda: AttentionTransfer(layers=["layer3"]),
        lambda: SelfSupervisedDistillation(layer="layer3", head=Training(epochs=1)),
    ],
)
def test_objectives_that_learn_from_more_than_logits_are_refused(folder, objective):
    with pytest.raises(InputError, match=r"learns from more than the teacher's logits.*cache=false"):
        student(folder, objective=objective)


def test_other_images_of_the_same_name_are_refused(folder):
    weights(folder)
    changed = Colours()
    load = changed.load

    def other(split):
        found = load(split)
        found.images[7, 1, 2, 3] ^= 1
        return found

    changed.load = other
    with pytest.raises(InputError, match="training image 7 is not the one that the teacher saw"):
        weights(folder, data=images(images=changed))


def test_a_file_that_is_none(folder, tmp_path):
    weights(folder)
    (path,) = folder.glob("logits-*.npy")
    whole = path.read_bytes()
    for content in (whole[:-8], b"no", b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{path}: cannot be read .*: remove it"):
            weights(folder)
    np.save(path, np.zeros((96, 3), np.float32))
    with pytest.raises(InputError, match="not the logits of 96 images and 3 classes: remove it"):
        weights(folder)
    path.unlink()
    with pytest.raises(InputError, match="have not been computed yet"):
        TeacherLogits(path, 96, 3)


def test_what_an_interrupted_run_has_left_is_no_cache(folder, monkeypatch):
    data, read = images(), ImageDataModule.train_images

    def stopping(self):
        for number, batch in enumerate(read(self)):
            if number:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(ImageDataModule, "train_images", stopping)
    module = student(folder)
    with pytest.raises(KeyboardInterrupt):
        module.prepare(data, trainer(folder))
    assert not [path for path in folder.glob("logits-*") if path.suffix != ".lock"]
    monkeypatch.undo()
    module.prepare(data, trainer(folder))
    assert len(list(folder.glob("logits-*.npy"))) == 1


def test_a_teacher_that_says_nothing_finite(folder):
    source = Teacher(TEACHER, folder, ckpt_path=folder / "broken.pth", cache=True)
    network = TEACHER.build()
    torch.nn.init.constant_(network.linear.bias, torch.inf)
    torch.save(network.state_dict(), folder / "broken.pth")
    module = Distillation(student=STUDENT, objective=LogitDistillation(), teacher=source)
    with pytest.raises(InputError, match="not finite; expected 3 finite ones"):
        module.prepare(images(), trainer(folder))
    assert not list(folder.glob("logits-*.npy"))


def test_a_folder_that_can_not_be_written(folder):
    (folder / "file").write_text("no folder")
    source = Teacher(TEACHER, folder / "file", ckpt_path=folder / "teacher.safetensors", cache=True)
    module = Distillation(student=STUDENT, objective=LogitDistillation(), teacher=source)
    with pytest.raises(InputError, match=r"model.teacher.cache: .* cannot be written"):
        module.prepare(images(), trainer(folder))


def _prepare(folder):
    student(folder).prepare(images(), trainer(folder))


@pytest.mark.slow
def test_several_processes_make_one_file(folder):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_prepare, args=(folder,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(folder.glob("logits-*.npy"))) == 1
    fresh, kept = weights(folder, cache=False), weights(folder)
    assert all(torch.equal(value, kept[name]) for name, value in fresh.items())


def test_a_trial_run_makes_none(folder, caplog):
    with caplog.at_level(logging.WARNING):
        trainer(folder, fast_dev_run=True).fit(student(folder), images())
    assert "the teacher's logits are not kept yet" in caplog.text
    assert not list(folder.glob("logits-*"))


def test_another_student_on_the_same_data_asks_its_own_teacher(folder):
    data = images()
    expected = weights(folder, cache=False)
    weights(folder, data=data)
    found = weights(folder, data=data, cache=False)
    assert data.add_to_batch is None
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_validation_and_test_need_no_cache(folder):
    module, data, run = student(folder), images(), trainer(folder)
    run.fit(module, data)
    (path,) = folder.glob("logits-*.npy")
    path.unlink()
    assert run.test(module, data, verbose=False)[0]["test/accuracy"] >= 0


PIXELS = st.lists(st.integers(0, 255), min_size=27, max_size=27)


@given(st.lists(PIXELS, min_size=1, max_size=4), st.integers(0, 26), st.integers(1, 255))
def test_digests_tell_images_apart(rows, place, change):
    first = torch.tensor(rows, dtype=torch.uint8).view(-1, 3, 3, 3)
    second = first.clone()
    second.view(len(rows), -1)[0, place] += change
    strided = first.contiguous(memory_format=torch.channels_last)
    assert (pixel_digests(first) == pixel_digests(strided)).all()
    assert (pixel_digests(first) != pixel_digests(second)).tolist() == [True] + [False] * (len(rows) - 1)


def test_digests_depend_on_the_places_of_pixels():
    image = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(1, 3, 8, 8)
    moved = [*(image.roll(shift, 2) for shift in range(8)), *(image.flip(axis) for axis in (1, 2, 3))]
    assert len({int(pixel_digests(other)[0]) for other in moved}) == 11
