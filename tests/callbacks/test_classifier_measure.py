from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from introspect.callbacks.classifier_measure import ClassifierMeasure
from introspect.callbacks.records import MetricsFile
from introspect.core.errors import InputError
from introspect.dissection.measures.diffroar import DiffRoar
from introspect.dissection.measures.five_band import FiveBand
from introspect.dissection.measures.gradients import GradientMaps
from introspect.dissection.measures.probes import ProbeTraining
from introspect.vision.backbones import Backbone
from introspect.vision.networks import Network
from tests.callbacks.test_concept_detectors import Untrained, detectors, fit
from tests.dissection.measures.made import without

PLACE = "dissect/gradients/"


def gradients(folder, **options):
    measure = partial(GradientMaps, limit=8, figure=False)
    return ClassifierMeasure(**{"name": "gradients", "measure": measure, "folder": folder / "measures", **options})


def test_what_needs_gradients_is_measured_after_a_test_that_has_none(tmp_path):
    trainer = fit(tmp_path, [gradients(tmp_path), MetricsFile(folder=tmp_path)], test=True)
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(PLACE)}
    assert {PLACE + "hoyer", PLACE + "gini", PLACE + "edge_alignment"} <= set(found)
    assert 0 < found[PLACE + "gini"] < 1
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written[PLACE + "gini"] == pytest.approx(found[PLACE + "gini"])
    assert json.loads((tmp_path / "measures" / "gradients.json").read_text())["settings"]["images"] == 8


def test_the_numbers_are_those_of_the_measure_itself(tmp_path):
    trainer = fit(tmp_path, [gradients(tmp_path)], test=True)
    module, data = trainer.lightning_module, trainer.datamodule.images
    module.student.eval()
    network = Network(module.student, "student", preprocess=module.preprocess)
    own = GradientMaps(network=network, data=data, folder=tmp_path, limit=8, figure=False)()
    for name, value in own.items():
        assert float(trainer.callback_metrics[name]) == pytest.approx(value, rel=1e-5)


def test_a_student_of_16_bits_is_measured_in_32(tmp_path):
    callbacks = [gradients(tmp_path), detectors(tmp_path, every_n_epochs=1)]
    trainer = fit(tmp_path, callbacks, test=True, precision="bf16-true")
    assert float(trainer.callback_metrics[PLACE + "gini"]) > 0
    assert "dissect/detectors/total" in trainer.callback_metrics
    assert next(trainer.lightning_module.student.parameters()).dtype == torch.bfloat16


def test_probes_are_trained_in_a_test_and_the_student_stays_as_it_was(tmp_path):
    measure = partial(
        DiffRoar,
        probe=Backbone("cifar_resnet8", 3, width=2),
        kept=[0.5],
        runs=1,
        training=ProbeTraining(epochs=1, batch_size=8),
        train_limit=16,
        test_limit=8,
        figure=False,
    )
    callback = ClassifierMeasure(name="diffroar", measure=measure, folder=tmp_path / "measures")
    trainer = fit(tmp_path, [])
    before = {name: value.clone() for name, value in trainer.lightning_module.student.state_dict().items()}
    trainer.callbacks.append(callback)
    trainer.test(trainer.lightning_module, trainer.datamodule, verbose=False)
    assert -1 <= float(trainer.callback_metrics["dissect/diffroar/difference"]) <= 1
    after = trainer.lightning_module.student.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (FiveBand, "nothing says which pixels matter; .*~callbacks.gradients leaves this measure out"),
        (partial(GradientMaps, examples=0), "examples=0: expected a whole number from 1"),
    ],
)
def test_impossible_measures_are_refused_before_the_training(tmp_path, measure, message):
    with pytest.raises(InputError, match=message):
        fit(tmp_path, [Untrained(), gradients(tmp_path, measure=measure)], test=True)


def test_a_missing_library_is_refused_before_the_training(tmp_path, monkeypatch):
    with without("matplotlib", monkeypatch):
        fit(tmp_path, [Untrained(), gradients(tmp_path, measure=GradientMaps)], test=True)
