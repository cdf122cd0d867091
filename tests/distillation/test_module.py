from __future__ import annotations

import logging
import re
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from introspect.core.errors import InputError
from introspect.distillation.checkpoints import load_classifier
from introspect.distillation.datamodule import ImageDataModule
from introspect.distillation.module import Distillation
from introspect.distillation.objectives import AttentionTransfer, CrossEntropy, LogitDistillation
from introspect.distillation.teacher import Teacher
from introspect.distillation.training import Training
from introspect.vision.backbones import Backbone
from introspect.vision.features import features
from tests.distillation.made import STUDENT, Colours, data, trainer

TEACHER = Backbone("cifar_resnet14", 3, width=4)


def distillation(folder, **options):
    teacher = Teacher(TEACHER, folder / "teachers", training=Training(epochs=1))
    return Distillation(**{"student": STUDENT, "objective": LogitDistillation(), "teacher": teacher, **options})


def test_a_classifier_learns(tmp_path):
    torch.manual_seed(0)  # some beginnings take more than 6 epochs
    module = Distillation(student=STUDENT, objective=CrossEntropy())
    run = trainer(tmp_path, epochs=6)
    run.fit(module, data())
    assert run.callback_metrics["val/accuracy"] > 0.9


def test_the_teacher_is_trained_once_kept_and_evaluated(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        trainer(tmp_path).fit(distillation(tmp_path), data())
    assert "there is no teacher yet: training cifar_resnet14 for 1 epochs, once" in caplog.text
    assert re.search(r"teacher \S+/cifar_resnet14-\w+\.safetensors: validation accuracy \d+\.\d %", caplog.text)
    (file,) = (tmp_path / "teachers").glob("*.safetensors")
    before = file.stat().st_mtime_ns
    caplog.clear()
    trainer(tmp_path).fit(distillation(tmp_path), data(seed=5))
    assert "there is no teacher yet" not in caplog.text
    assert file.stat().st_mtime_ns == before
    trainer(tmp_path).fit(distillation(tmp_path), ImageDataModule(images=Colours(seed=1), batch_size=32))
    assert len(list((tmp_path / "teachers").glob("*.safetensors"))) == 2  # other data, another teacher


def test_the_students_start_does_not_depend_on_whether_the_teacher_was_there(tmp_path):
    def losses(folder):
        torch.manual_seed(3)
        module = distillation(folder)
        run = trainer(folder)
        run.fit(module, data())
        return module.student.state_dict()

    first, second = losses(tmp_path), losses(tmp_path)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_teacher_is_frozen_and_in_no_checkpoint(tmp_path):
    module = distillation(tmp_path)
    run = trainer(tmp_path, enable_checkpointing=False)
    run.fit(module, data())
    (teacher,) = module._teacher
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    fresh = module._source.load(module.identity)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in teacher.state_dict().items())
    run.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in saved} == {"student"}


def test_a_checkpoint_gives_the_student_back(tmp_path):
    module = distillation(tmp_path)
    run = trainer(tmp_path)
    run.fit(module, data())
    run.save_checkpoint(tmp_path / "x.ckpt")
    images = Colours().load("test").images
    student = load_classifier(tmp_path / "x.ckpt")
    with torch.no_grad():
        torch.testing.assert_close(student.module(student.preprocess(images)), module.eval()(images))


def test_a_checkpoint_that_is_none(tmp_path):
    (tmp_path / "x.ckpt").write_text("no")
    with pytest.raises(InputError, match="is not a Lightning checkpoint"):
        load_classifier(tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="no such file"):
        load_classifier(tmp_path / "y.ckpt")


def test_the_learning_rate_rises_and_falls_at_fractions_of_the_training(tmp_path):
    rates = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    module = Distillation(student=STUDENT, objective=CrossEntropy(), lr=1.0, milestones=(0.5, 0.9), warmup_steps=2)
    trainer(tmp_path, epochs=4, callbacks=[Watch()]).fit(module, data())
    assert rates == pytest.approx([0.5, *[1.0] * 5, *[0.1] * 5, 0.01])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"teacher": None}, "model.teacher is required"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"milestones": (1.5,)}, r"milestones=\[1.5\]"),
    ],
)
def test_settings_out_of_range(tmp_path, options, complaint):
    with pytest.raises(InputError, match=complaint):
        distillation(tmp_path, **options)


def test_a_teacher_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"has not been trained yet: python train.py experiment=teacher"):
        Teacher(TEACHER, tmp_path).load("data")
    with pytest.raises(InputError, match="no such file"):
        Teacher(TEACHER, tmp_path, ckpt_path=tmp_path / "none.ckpt").load("data")
    other = Teacher(TEACHER, tmp_path)
    path = other.save(STUDENT.build(), "data")
    with pytest.raises(InputError, match=rf"{path}: the weights are not those of the network"):
        other.load("data")


def test_a_trial_run_makes_no_teacher(tmp_path, caplog):
    trainer(tmp_path, fast_dev_run=True).fit(distillation(tmp_path), data())
    assert "the student learns from an untrained one" in caplog.text
    assert not (tmp_path / "teachers").exists()


def test_the_students_random_state_does_not_depend_on_the_teacher(tmp_path):
    """What it draws while it trains is the same with and without one."""
    drawn = []
    for options in ({}, {"objective": CrossEntropy(), "teacher": None}):
        torch.manual_seed(3)
        module = distillation(tmp_path, **options)
        run = trainer(tmp_path)
        run.fit(module, data())
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def learnt(folder, precision="32-true", **options):
    torch.manual_seed(3)
    module = distillation(folder, lr=0.02, **options)
    run = trainer(folder, precision=precision)
    run.fit(module, data())
    run.save_checkpoint(folder / "x.ckpt")
    return torch.load(folder / "x.ckpt", weights_only=True), run.callback_metrics


@pytest.fixture
def compiled(monkeypatch):
    """What is compiled is traced and differentiated as ever, but run by torch itself: no compiler is waited for."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    yield graphs
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "objective", [LogitDistillation, lambda: AttentionTransfer(layers=["layer2", "layer3"], weight=10.0)]
)
def test_a_compiled_student_learns_the_same_and_is_saved_as_ever(tmp_path, compiled, objective):
    plain, fast = (learnt(tmp_path, objective=objective(), compile=compile)[0] for compile in (False, True))
    assert len(compiled) == 2  # student and teacher, each once
    assert plain["hyper_parameters"] == fast["hyper_parameters"]
    assert plain["state_dict"].keys() == fast["state_dict"].keys()
    for name, value in plain["state_dict"].items():
        torch.testing.assert_close(fast["state_dict"][name], value, msg=name)


def test_the_layout_of_pixels_changes_nothing(tmp_path):
    found = [learnt(tmp_path, channels_last=layout)[0] for layout in (True, False)]
    assert found[0]["hyper_parameters"] == found[1]["hyper_parameters"]
    for name, value in found[0]["state_dict"].items():
        torch.testing.assert_close(found[1]["state_dict"][name], value, rtol=1e-3, atol=1e-4, msg=name)
    for layout in (True, False):
        student = distillation(tmp_path, channels_last=layout).student
        assert student.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last) == layout


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("objective", [LogitDistillation, lambda: AttentionTransfer(layers=["layer3"], weight=10.0)])
def test_losses_have_all_digits_where_networks_have_few(tmp_path, monkeypatch, precision, objective):
    kinds = set()
    made = objective()
    forward = type(made).forward

    def watching(self, student, teacher, *others):
        kinds.update({student.logits.dtype, teacher.logits.dtype})
        losses = forward(self, student, teacher, *others)
        kinds.update(loss.dtype for loss in losses.values())
        return losses

    exact = learnt(tmp_path, objective=objective())[1]
    monkeypatch.setattr(type(made), "forward", watching)
    few = learnt(tmp_path, precision, objective=made)[1]
    assert kinds == {torch.float32}
    assert float(few["train/loss"]) == pytest.approx(float(exact["train/loss"]), rel=0.1)


def test_a_layer_whose_output_is_changed_in_place(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True), nn.Flatten())
    images = torch.randn(2, 3, 4, 4)
    found = features(network, images, ["0"])
    assert torch.equal(found.maps["0"], network[0](images))
    assert (found.maps["0"] < 0).any()


def test_batch_norm_that_cannot_be_synchronized_is_refused(tmp_path):
    run = trainer(tmp_path, strategy="ddp", devices=1, sync_batchnorm=True)
    with pytest.raises(InputError, match=r"^trainer\.sync_batchnorm: works on GPUs only"):
        run.fit(Distillation(student=STUDENT, objective=CrossEntropy()), data())


def test_batch_norm_that_is_not_synchronized_is_said(tmp_path, caplog, monkeypatch):
    run = trainer(tmp_path, strategy="ddp", devices=1)
    run.fit(Distillation(student=STUDENT, objective=CrossEntropy()), data())
    assert "batch norm" not in caplog.text
    module = Distillation(student=STUDENT, objective=CrossEntropy())
    module.trainer = run
    monkeypatch.setattr(Trainer, "world_size", 2)
    module.setup("fit")
    assert "batch norm takes its statistics over the images of one process, not of all 2" in caplog.text
