from __future__ import annotations

import json

import pytest
from lightning.pytorch import Trainer

from introspect.callbacks.concept_detectors import ConceptDetectors
from introspect.callbacks.keep_teacher import KeepTeacher
from introspect.callbacks.metrics_file import MetricsFile
from introspect.dissection.concepts.shapeworld import ShapeworldConcepts
from introspect.distillation.backbones import Backbone
from introspect.distillation.datamodule import ImageDataModule
from introspect.distillation.module import Distillation
from introspect.distillation.objectives import CrossEntropy, LogitDistillation
from introspect.distillation.teacher import Teacher, Training
from introspect.errors import InputError
from tests.distillation.made import Colours

STUDENT = Backbone("cifar_resnet8", 3, width=4)
TOTAL = "dissect/detectors/total"


def fit(folder, callbacks, epochs=1, module=None, test=False):
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    module = module or Distillation(student=STUDENT, objective=CrossEntropy())
    data = ImageDataModule(images=Colours(), batch_size=32)
    trainer.fit(module, data)
    if test:
        trainer.test(module, data, verbose=False)
    return trainer


def detectors(folder, **options):
    concepts = {"concepts": ShapeworldConcepts(size=12, side=16), "watched": ShapeworldConcepts(size=6, side=16)}
    return ConceptDetectors(**{"layer": "layer3", "folder": folder / "dissection", **concepts, **options})


def test_it_looks_every_few_epochs_beside_the_accuracy(tmp_path):
    once = fit(tmp_path, [detectors(tmp_path, every_n_epochs=2)], epochs=1)
    assert TOTAL not in once.callback_metrics
    trainer = fit(tmp_path, [detectors(tmp_path, every_n_epochs=2)], epochs=2)
    categories = ("color", "object", "part", "material", "texture", "scene")
    expected = {f"dissect/detectors/{name}" for name in ("total", "unique", *categories)}
    assert expected | {"val/accuracy"} <= set(trainer.callback_metrics)
    counted = sum(trainer.callback_metrics[f"dissect/detectors/{name}"] for name in categories)
    assert trainer.callback_metrics[TOTAL] == counted


def test_a_look_leaves_the_student_in_training(tmp_path):
    module = Distillation(student=STUDENT, objective=CrossEntropy())
    fit(tmp_path, [detectors(tmp_path, every_n_epochs=1)], epochs=2, module=module)
    assert module.student.training
    assert not module.student.layer3._forward_hooks
    assert all(parameter.requires_grad for parameter in module.student.parameters())


def test_after_the_test_all_is_dissected_and_kept(tmp_path):
    callbacks = [detectors(tmp_path, controls=["rotation"], examples=2), MetricsFile(folder=tmp_path)]
    trainer = fit(tmp_path, callbacks, test=True)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"test/accuracy", TOTAL, "dissect/control/rotation/detectors/total"} <= set(metrics)
    assert metrics["test/accuracy"] == pytest.approx(float(trainer.callback_metrics["test/accuracy"]))
    found = {path.name for path in (tmp_path / "dissection/layer3").iterdir()}
    assert {"report.html", "tally.csv", "units.parquet", "rotation"} <= found


def test_a_layer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="did you mean layer"):
        fit(tmp_path, [detectors(tmp_path, layer="layer9", every_n_epochs=1)])


def test_a_kept_teacher_is_the_one_that_students_look_for(tmp_path, caplog):
    training = Training(epochs=1)
    teacher = Teacher(STUDENT, tmp_path / "teachers", training=training)
    fit(tmp_path, [KeepTeacher(teacher=teacher)])
    assert len(list((tmp_path / "teachers").iterdir())) == 1
    module = Distillation(student=STUDENT, objective=LogitDistillation(), teacher=teacher)
    fit(tmp_path, [], module=module)
    assert "there is no teacher yet" not in caplog.text
    assert len(list((tmp_path / "teachers").iterdir())) == 1
