from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from introspect.callbacks.export import ExportStudent
from introspect.chat.protocol import Message
from introspect.chat.templates import load_tokenizer
from introspect.core.errors import InputError
from introspect.tuning.packing import collate
from introspect.tuning.student import ReasoningStudent
from introspect.tuning.supervision import supervise
from tests.tuning.tiny import quiet_trainer, tiny_folder, tiny_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("base"))


def fit(base, path, *callbacks, lora=None, **options):
    tokenizer = tiny_tokenizer()
    items = [supervise(tokenizer, [Message("user", f"Who is {i}?")], "No" * i) for i in range(1, 5)]
    loader = DataLoader(items, batch_size=2, collate_fn=lambda chosen: collate(chosen, 0))
    student = ReasoningStudent(model=str(base), lr=1e-2, lora=lora)
    trainer = quiet_trainer(path, callbacks=list(callbacks), **{"max_epochs": 2, **options})
    trainer.fit(student, loader, loader)
    return student


def logits(network):
    with torch.no_grad():
        return network.eval()(input_ids=torch.arange(1, 60)[None]).logits


@pytest.mark.parametrize("lora", [None, {"r": 2, "alpha": 8}])
def test_exported_folder_is_the_tuned_student(base, tmp_path, lora):
    from transformers import AutoModelForCausalLM

    export = ExportStudent(folder=tmp_path, recipe="mbt_r", data="hopworld")
    student = fit(base, tmp_path, export, ModelCheckpoint(tmp_path / "ckpt"), lora=lora)

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "student", dtype="float32")

    assert export.folder == tmp_path / "student"
    torch.testing.assert_close(logits(loaded), logits(student.network), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(logits(loaded), logits(AutoModelForCausalLM.from_pretrained(base)), atol=1e-2)
    assert not [name for name, _ in loaded.named_parameters() if "lora" in name]
    # What was exported is no less a student for having been exported.
    assert bool(lora) == any("lora" in name for name in student.state_dict())


def test_exported_folder_has_all_that_a_chat_needs(base, tmp_path):
    fit(base, tmp_path, ExportStudent(folder=tmp_path, title="Ada", recipe="mbt_r", data="hopworld"))
    folder = tmp_path / "student"

    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    tokenizer = load_tokenizer(folder)
    assert tokenizer.chat_template == tiny_tokenizer().chat_template
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [tokenizer.eos_token_id]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for line in ("# Ada", "- recipe: mbt_r", "- data: hopworld", f"- base model: {base.name}", "| lr | `0.01` |"):
        assert f"\n{line}\n" in card
    assert str(base.parent) not in card
    assert "base_model:" not in card  # a folder is no hub id


def test_best_weights_can_be_exported(base, tmp_path):
    from transformers import AutoModelForCausalLM

    # The learning rate falls from harmful to none: with mode=max, the first epoch is "best".
    checkpoint = ModelCheckpoint(tmp_path / "ckpt", monitor="val/loss", mode="max")
    student = fit(base, tmp_path, checkpoint, ExportStudent(folder=tmp_path, weights="best"))
    best = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "student").state_dict()

    key = "lm_head.weight"
    assert torch.equal(loaded[key], best[f"network.{key}"])
    assert not torch.equal(loaded[key], student.state_dict()[f"network.{key}"])


def test_best_weights_need_a_monitored_metric_before_training(base, tmp_path):
    with pytest.raises(InputError, match="weights is best, but no checkpoint callback monitors a metric"):
        fit(base, tmp_path, ModelCheckpoint(tmp_path / "ckpt"), ExportStudent(folder=tmp_path, weights="best"))


def test_unknown_weights_are_refused():
    with pytest.raises(InputError, match="weights is 'first', expected last or best"):
        ExportStudent(folder=".", weights="first")


def test_fast_dev_run_leaves_nothing_behind(base, tmp_path):
    fit(base, tmp_path, ExportStudent(folder=tmp_path), fast_dev_run=True)

    assert not (tmp_path / "student").exists()
