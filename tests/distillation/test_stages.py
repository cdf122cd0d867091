"""Objectives with networks of their own, within whole trainings."""

from __future__ import annotations

import logging

import pytest
import torch
from lightning.pytorch import Callback

from introspect.core.errors import InputError
from introspect.distillation.checkpoints import load_classifier
from introspect.distillation.datamodule import ImageDataModule
from introspect.distillation.module import Distillation, make_teacher
from introspect.distillation.objectives import (
    AttentionTransfer,
    ContrastiveDistillation,
    FactorTransfer,
    LogitDistillation,
    SelfSupervisedDistillation,
)
from introspect.distillation.stages import StageTraining, load_stage, make_stage, stage_file
from introspect.distillation.teacher import Teacher
from introspect.distillation.training import Training
from introspect.vision.backbones import Backbone
from introspect.vision.features import features, outline
from tests.distillation.made import STUDENT, Colours, data, trainer

TEACHER = Backbone("cifar_resnet14", 3, width=6)
HOW = Training(epochs=1, lr=0.01)
METHODS = {
    "at": lambda **options: AttentionTransfer(layers=["layer2", "layer3"], **options),
    "ft": lambda **options: FactorTransfer(layer="layer3", paraphraser=HOW, **options),
    "crd": lambda **options: ContrastiveDistillation(layer="layer3", size=8, negatives=16, **options),
    "sskd": lambda **options: SelfSupervisedDistillation(layer="layer3", head=HOW, **options),
}


def distillation(folder, method, seed=0, **options):
    torch.manual_seed(seed)
    teacher = Teacher(TEACHER, folder / "teachers", training=Training(epochs=1))
    return Distillation(student=STUDENT, objective=METHODS[method](**options), teacher=teacher, lr=0.01)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with a teacher and its stages."""
    folder = tmp_path_factory.mktemp("kept")
    for method in ("ft", "sskd"):
        trainer(folder).fit(distillation(folder, method), data())
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_saves_and_is_tested(kept, tmp_path, method):
    module = distillation(kept, method, base=LogitDistillation())
    before = {name: value.clone() for name, value in module.named_parameters()}
    run = trainer(tmp_path)
    run.fit(module, data())
    assert {"train/loss/cross_entropy", "train/loss/logit"} < run.callback_metrics.keys()
    still = [name for name, value in module.named_parameters() if torch.equal(value, before[name])]
    assert not still
    run.save_checkpoint(tmp_path / "x.ckpt")
    fresh = distillation(kept, method, seed=5, base=LogitDistillation())
    trainer(tmp_path).test(fresh, data(), ckpt_path=tmp_path / "x.ckpt", weights_only=True, verbose=False)
    images = Colours().load("test").images
    student = load_classifier(tmp_path / "x.ckpt")
    with torch.no_grad():
        torch.testing.assert_close(student.module(student.preprocess(images)), module.eval()(images))
    # As a teacher of others: what its objective has learnt is no weight of the network.
    taught = Teacher(STUDENT, tmp_path, ckpt_path=tmp_path / "x.ckpt").load("")
    assert torch.equal(taught.conv1.weight, module.student.conv1.weight)


@pytest.mark.parametrize("method", ["ft", "sskd"])
def test_a_stage_is_trained_once_and_stays_as_it_is(kept, method, caplog):
    files = {path: path.stat().st_mtime_ns for path in (kept / "teachers").glob("*.safetensors")}
    assert len(files) == 3
    assert not list((kept / "teachers").glob("*.partial*"))
    module = distillation(kept, method, seed=4)
    with caplog.at_level(logging.INFO):
        trainer(kept).fit(module, data(seed=4))
    assert "the first stage" not in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (kept / "teachers").glob("*.safetensors")} == files
    stage = module.objective.stage
    assert not stage.training
    assert not any(p.requires_grad for p in stage.parameters())
    fresh = distillation(kept, method).objective.stage
    begun = {name: value.clone() for name, value in fresh.state_dict().items()}
    load_stage(fresh, kept / "teachers", module._stage_identity(data()))
    assert all(torch.equal(value, stage.state_dict()[name]) for name, value in fresh.state_dict().items())
    assert not any(torch.equal(value, begun[name]) for name, value in fresh.state_dict().items())
    assert not [name for name in module.state_dict() if "stage" in name]


def test_the_students_start_does_not_depend_on_the_method(tmp_path):
    starts = [distillation(tmp_path, method).student.state_dict() for method in METHODS]
    for other in starts[1:]:
        assert all(torch.equal(value, other[name]) for name, value in starts[0].items())


def test_an_interrupted_stage_goes_on(tmp_path, caplog):
    how = Training(epochs=3, lr=0.01)
    teacher = TEACHER.build().eval().requires_grad_(False)
    shapes = [outline(backbone, ["layer3"]) for backbone in (STUDENT, TEACHER)]

    def made(folder):
        objective = FactorTransfer(layer="layer3", paraphraser=how)
        objective.build(*shapes)
        make_stage(objective.stage, folder, "x", lambda: teacher, lambda images: images / 255, data())
        return objective.stage.state_dict()

    whole = made(tmp_path / "whole")
    step, steps = StageTraining.training_step, []

    def stopping(self, batch, batch_idx):
        steps.append(self.trainer.current_epoch)
        if len(steps) == 8:  # the second of the third epoch's three
            raise RuntimeError("stopped")
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageTraining, "training_step", stopping)
        with pytest.raises(RuntimeError, match="stopped"):
            made(tmp_path / "halves")
    with caplog.at_level(logging.INFO):
        resumed = made(tmp_path / "halves")
    assert "the training resumes from" in caplog.text
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    (file,) = (tmp_path / "halves").glob("*.safetensors")
    assert not file.with_suffix(".partial").exists()


def test_a_file_of_its_own_for_every_stage(tmp_path):
    shapes = [outline(backbone, ["layer2", "layer3"]) for backbone in (STUDENT, TEACHER)]

    def file(identity="x", layer="layer3", rate=0.5, how=HOW):
        objective = FactorTransfer(layer=layer, rate=rate, paraphraser=how)
        objective.build(*shapes)
        return stage_file(objective.stage, tmp_path, identity)

    files = [file(), file("y"), file(layer="layer2"), file(rate=0.25), file(how=Training(epochs=2, lr=0.01))]
    assert len(set(files)) == len(files)
    assert file() == files[0]


def test_a_stage_that_is_not_there(tmp_path):
    objective = METHODS["ft"]()
    objective.build(*(outline(backbone, ["layer3"]) for backbone in (STUDENT, TEACHER)))
    with pytest.raises(InputError, match="the first stage has not been trained"):
        load_stage(objective.stage, tmp_path, "x")


def test_a_trial_run_makes_no_stage(tmp_path, caplog):
    trainer(tmp_path, fast_dev_run=True).fit(distillation(tmp_path, "sskd"), data())
    assert "there is no first stage yet" in caplog.text
    assert not (tmp_path / "teachers").exists()


def test_a_resumed_contrast_is_an_uninterrupted_one(kept, tmp_path):
    class Save(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "x.ckpt")

    whole = distillation(kept, "crd")
    trainer(tmp_path, epochs=2, callbacks=[Save()]).fit(whole, data())
    resumed = distillation(kept, "crd", seed=7)
    trainer(tmp_path, epochs=2).fit(resumed, data(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert resumed.objective.banks.steps == whole.objective.banks.steps == 6
    expected = whole.state_dict()
    for name, value in resumed.state_dict().items():
        if not name.endswith("_extra_state"):
            torch.testing.assert_close(value, expected[name])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["crd", "sskd"])
def test_two_processes(kept, tmp_path, method):
    """Every weight is reached by a gradient, and the two keep the same banks."""
    run = trainer(tmp_path, strategy="ddp_spawn", devices=2)
    module, images = distillation(kept, method), ImageDataModule(images=Colours(), batch_size=16)
    module.prepare(images, run)
    run.fit(module, images)
    assert run.callback_metrics["train/loss"].isfinite()
    if method == "crd":
        assert module.objective.banks.student.norm(dim=1).tolist() == pytest.approx([1] * 96)


def test_outlines_are_the_shapes_of_features():
    found, real = outline(TEACHER, ["layer2", "layer3"], 32), TEACHER.build()
    expected = features(real, torch.zeros(1, 3, 32, 32), ["layer2", "layer3"])
    assert {name: maps.shape for name, maps in found.maps.items()} == {n: m.shape for n, m in expected.maps.items()}
    assert found.logits.shape == expected.logits.shape
    assert found.logits.is_meta
    assert outline(Backbone("resnet18", 1000, weights="DEFAULT"), ["layer4"]).maps["layer4"].shape == (1, 512, 7, 7)


def test_layers_that_do_not_fit_are_refused_before_anything_is_trained(tmp_path):
    teacher = Teacher(Backbone("cifar_resnet14", 3, stem_stride=2), tmp_path)
    with pytest.raises(
        InputError, match=r"student's layer2 has maps of \[112, 112\] cells, the teacher's layer2 of \[56"
    ):
        Distillation(student=STUDENT, objective=METHODS["at"](), teacher=teacher)


def test_a_teacher_of_smoothed_labels_is_another_teacher(tmp_path):
    files = [
        make_teacher(
            Teacher(TEACHER, tmp_path, training=Training(epochs=1, label_smoothing=value)), data(), device="cpu"
        )
        for value in (0.0, 0.1)
    ]
    first, second = (Teacher(TEACHER, tmp_path, ckpt_path=file).load("") for file in files)
    assert not torch.equal(first.linear.weight, second.linear.weight)
