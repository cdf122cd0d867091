from __future__ import annotations

import json

import pytest
from lightning.pytorch import Callback

from introspect.callbacks.concept_detectors import ConceptDetectors
from introspect.callbacks.keep_teacher import KeepTeacher
from introspect.callbacks.records import MetricsFile
from introspect.core.errors import InputError
from introspect.dissection import engine
from introspect.dissection.concepts.shapeworld import ShapeworldConcepts
from introspect.distillation.module import Distillation
from introspect.distillation.objectives import CrossEntropy, LogitDistillation
from introspect.distillation.teacher import Teacher
from introspect.distillation.training import Training
from introspect.vision.backbones import Backbone
from tests.distillation.made import STUDENT, data, trainer

TOTAL = "dissect/detectors/total"


def fit(folder, callbacks, epochs=1, module=None, test=False, **options):
    run = trainer(folder, epochs, callbacks=callbacks, **options)
    module = module or Distillation(student=STUDENT, objective=CrossEntropy())
    served = data()
    run.fit(module, served)
    if test:
        run.test(module, served, verbose=False)
    return run


def detectors(folder, **options):
    concepts = {"concepts": ShapeworldConcepts(size=12, side=16), "watched": ShapeworldConcepts(size=6, side=16)}
    return ConceptDetectors(**{"layer": "layer3", "folder": folder / "dissection", **concepts, **options})


def test_it_dissects_every_few_epochs_next_to_the_accuracy(tmp_path):
    once = fit(tmp_path, [detectors(tmp_path, every_n_epochs=2)], epochs=1)
    assert TOTAL not in once.callback_metrics
    trainer = fit(tmp_path, [detectors(tmp_path, every_n_epochs=2)], epochs=2)
    categories = ("color", "object", "part", "material", "texture", "scene")
    expected = {f"dissect/detectors/{name}" for name in ("total", "unique", *categories)}
    assert expected | {"val/accuracy"} <= set(trainer.callback_metrics)
    counted = sum(trainer.callback_metrics[f"dissect/detectors/{name}"] for name in categories)
    assert trainer.callback_metrics[TOTAL] == counted


def test_a_dissection_leaves_the_student_in_training(tmp_path):
    module = Distillation(student=STUDENT, objective=CrossEntropy())
    fit(tmp_path, [detectors(tmp_path, every_n_epochs=1)], epochs=2, module=module)
    assert module.student.training
    assert not module.student.layer3._forward_hooks
    assert all(parameter.requires_grad for parameter in module.student.parameters())


def test_after_the_test_the_whole_set_is_dissected_and_reported(tmp_path):
    callbacks = [detectors(tmp_path, controls=["rotation"], examples=2), MetricsFile(folder=tmp_path)]
    trainer = fit(tmp_path, callbacks, test=True)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"test/accuracy", TOTAL, "dissect/control/rotation/detectors/total"} <= set(metrics)
    assert metrics["test/accuracy"] == pytest.approx(float(trainer.callback_metrics["test/accuracy"]))
    found = {path.name for path in (tmp_path / "dissection/layer3").iterdir()}
    assert {"report.html", "tally.csv", "units.parquet", "rotation"} <= found


def test_a_layer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="did you mean layer"):
        fit(tmp_path, [Untrained(), detectors(tmp_path, layer="layer9")])
    with pytest.raises(InputError, match="iou_threshold=3"):
        fit(tmp_path, [Untrained(), detectors(tmp_path, iou_threshold=3)])


class Untrained(Callback):
    """A mistake must be found before anything is trained."""

    def on_train_start(self, trainer, pl_module):
        raise AssertionError("trained")


def test_during_training_the_smaller_set_is_dissected_with_the_preprocessing_of_the_student(tmp_path, monkeypatch):
    dissected = []

    def spy(model, layers, concepts, **options):
        dissected.append((len(concepts), options["preprocessing"]))
        return engine.dissect(model, layers, concepts, **options)

    monkeypatch.setattr("introspect.dissection.measures.detectors.dissect", spy)
    module = Distillation(student=STUDENT, objective=CrossEntropy())
    fit(tmp_path, [detectors(tmp_path, every_n_epochs=1)], module=module)
    assert dissected == [(6, module.preprocess)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": 0.01}, "model.lr is 0.01, expected 0.1"),
        ({"student": Backbone("cifar_resnet14", 3, width=4)}, "model.student is"),
        ({"warmup_steps": 3}, "model.warmup_steps is 3, expected 0"),
    ],
)
def test_another_training_is_not_kept_as_the_teacher(tmp_path, caplog, options, said):
    teacher = Teacher(STUDENT, tmp_path / "teachers", training=Training(epochs=1))
    module = Distillation(**{"student": STUDENT, "objective": CrossEntropy(), "milestones": (0.3, 0.6, 0.9), **options})
    fit(tmp_path, [KeepTeacher(teacher=teacher)], module=module)
    assert said in caplog.text
    assert not (tmp_path / "teachers").exists()


def test_a_trial_and_other_epochs_are_not_kept(tmp_path, caplog):
    teacher = Teacher(STUDENT, tmp_path / "teachers", training=Training(epochs=1))
    fit(tmp_path, [KeepTeacher(teacher=teacher)], epochs=2)
    assert "trainer.max_epochs is 2, expected 1" in caplog.text
    fit(tmp_path, [KeepTeacher(teacher=teacher)], limit_train_batches=1)
    assert "a trial run is True, expected False" in caplog.text
    assert not (tmp_path / "teachers").exists()


def test_a_kept_teacher_is_the_one_that_students_look_for(tmp_path, caplog):
    training = Training(epochs=1)
    teacher = Teacher(STUDENT, tmp_path / "teachers", training=training)
    fit(tmp_path, [KeepTeacher(teacher=teacher)])
    assert len(list((tmp_path / "teachers").glob("*.safetensors"))) == 1
    module = Distillation(student=STUDENT, objective=LogitDistillation(), teacher=teacher)
    fit(tmp_path, [], module=module)
    assert "there is no teacher yet" not in caplog.text
    assert len(list((tmp_path / "teachers").glob("*.safetensors"))) == 1
