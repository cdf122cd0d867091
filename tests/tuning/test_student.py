from __future__ import annotations

import json
import shutil

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from introspect.chat.protocol import Message
from introspect.core.errors import InputError
from introspect.tuning.packing import collate
from introspect.tuning.student import ReasoningStudent, load_student
from introspect.tuning.supervision import supervise
from tests.tuning.tiny import quiet_trainer, tiny_folder, tiny_tokenizer

LORA = {"r": 2, "alpha": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def items(folder):
    tokenizer = tiny_tokenizer()
    return [supervise(tokenizer, [Message("user", f"Who is {i}?")], "No" * i) for i in range(1, 9)]


def build(folder, **options):
    student = ReasoningStudent(model=str(folder), **options)
    student.configure_model()
    return student


def batches(items, batch_size=4):
    return DataLoader(items, batch_size=batch_size, collate_fn=lambda chosen: collate(chosen, 0))


def fit(student, loader, path=None, callbacks=(), **options):
    trainer = quiet_trainer(path, callbacks=list(callbacks), **{"max_epochs": 1, **options})
    trainer.fit(student, loader)
    return trainer


def naive_loss(student, batch):
    logits = student.network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)


@pytest.mark.parametrize("lora", [None, LORA])
def test_loss_and_gradients_equal_those_of_all_logits(folder, items, lora):
    student, batch = build(folder, lora=lora), collate(items, 0)
    trained = [p for p in student.parameters() if p.requires_grad]

    loss, _, count = student._losses(batch)
    gradients = torch.autograd.grad(loss, trained)

    naive = naive_loss(student, batch)
    torch.testing.assert_close(loss, naive)
    torch.testing.assert_close(gradients, torch.autograd.grad(naive, trained))
    assert count == int((batch["labels"] != -100).sum())


def test_loss_of_a_mean_over_tokens_not_over_sequences(folder):
    student, batch = (
        build(folder),
        {
            "input_ids": torch.tensor([[4, 5, 6], [7, 8, 9]]),
            "attention_mask": torch.ones(2, 3, dtype=torch.int64),
            "labels": torch.tensor([[-100, 5, 6], [-100, -100, 9]]),
        },
    )
    with torch.no_grad():
        logs = student.network(input_ids=batch["input_ids"]).logits.log_softmax(-1)
        expected = -(logs[0, 0, 5] + logs[0, 1, 6] + logs[1, 1, 9]) / 3
        loss, accuracy, count = student._losses(batch)

    torch.testing.assert_close(loss, expected)
    assert count == 3
    assert accuracy in [pytest.approx(hits / 3) for hits in range(4)]


def test_head_sees_only_supervised_positions_and_keeps_no_hook(folder, items):
    student, batch = build(folder), collate(items, 0)
    head, seen = student.network.get_output_embeddings(), []
    student._losses(batch)  # the head is tried once
    watch = head.register_forward_hook(lambda _, inputs, output: seen.append(output.shape))

    _, _, count = student._losses(batch)

    watch.remove()
    assert seen == [(1, count, student.network.config.vocab_size)]
    assert not head._forward_pre_hooks


def test_prompt_and_padding_do_not_change_the_gradient(folder, items):
    student = build(folder)
    weight = student.network.get_output_embeddings().weight
    alone = collate(items[:1], 0)
    # The same completion beside a longer one whose labels are all masked.
    padded = collate([items[0], items[-1]], 0)
    padded["labels"][1] = -100

    gradients = [torch.autograd.grad(student._losses(batch)[0], weight)[0] for batch in (alone, padded)]

    torch.testing.assert_close(*gradients)
    # Of the completion's own labels, none is a token that only stands in the prompt.
    labels = alone["labels"]
    labels[labels != -100] = 7
    (pushed,) = torch.autograd.grad(student._losses(alone)[0], weight)
    assert pushed[7].norm() > 10 * pushed[[i for i in range(len(pushed)) if i != 7]].norm(dim=1).median()


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_step_changes_every_trained_weight_and_no_other(folder, items, lora):
    torch.manual_seed(0)
    student = build(folder, lora=lora, lr=1e-2, warmup_ratio=0.0, schedule="constant")
    before = {name: p.clone() for name, p in student.named_parameters()}

    # Two steps: the first moves only one of a pair of adapters, because the other begins as zero.
    fit(student, batches(items))

    for name, parameter in student.named_parameters():
        assert torch.equal(parameter, before[name]) == (not parameter.requires_grad), name
    trained = [name for name, p in student.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in trained) == bool(lora)


def test_gradient_checkpointing_gives_the_same_gradients(folder, items):
    batch = collate(items, 0)
    gradients = []
    for checkpointing in (False, True):
        student = build(folder, gradient_checkpointing=checkpointing)
        assert any(getattr(m, "gradient_checkpointing", False) for m in student.network.modules()) is checkpointing
        gradients.append(torch.autograd.grad(student._losses(batch)[0], list(student.parameters())))

    torch.testing.assert_close(*gradients)


def test_training_logs_and_learns(folder, items):
    trainer = fit(build(folder, lr=1e-2), batches(items), max_epochs=15)

    assert {"train/loss", "train/token_accuracy", "train/lr"} <= trainer.callback_metrics.keys()
    assert trainer.callback_metrics["train/loss"] < 1.5  # 8 at the beginning
    assert trainer.callback_metrics["train/lr"] < 1e-3


def test_validation_loss_is_the_mean_over_all_tokens(folder, items):
    student = build(folder)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)

    trainer.validate(student, batches(items, 3), verbose=False)

    expected = student.eval()._losses(collate(items, 0))
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(expected[0].item(), rel=1e-5)
    assert trainer.callback_metrics["val/token_accuracy"].item() == pytest.approx(expected[1].item())


@pytest.mark.parametrize("lora", [None, LORA])
def test_checkpoint_is_plain_data_and_loads_what_was_trained(folder, items, lora, tmp_path):
    settings = OmegaConf.create({"lora": lora, "betas": [0.9, 0.99]})
    student = build(folder, lr=1e-2, lora=settings.lora, betas=settings.betas)
    fit(student, batches(items), tmp_path, [ModelCheckpoint(tmp_path, "last")])

    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    loaded = load_student(tmp_path / "last.ckpt")

    assert set(checkpoint["state_dict"]) == (
        {name for name, p in student.named_parameters() if p.requires_grad} if lora else set(student.state_dict())
    )
    assert checkpoint["hyper_parameters"]["betas"] == [0.9, 0.99]
    assert checkpoint["hyper_parameters"]["lora"] == lora
    assert not loaded.training
    for name, value in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_lightning_loads_the_checkpoint_itself(folder, items, tmp_path):
    student = build(folder, lr=1e-2, lora=LORA)
    fit(student, batches(items), tmp_path, [ModelCheckpoint(tmp_path, "last")])

    loaded = ReasoningStudent.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True, map_location="cpu")

    for name, value in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_adapters_of_another_shape_are_refused(folder):
    state = {name: p for name, p in build(folder, lora=LORA).named_parameters() if p.requires_grad}
    state.popitem()
    with pytest.raises(RuntimeError, match="adapters are not those of the student"):
        build(folder, lora=LORA).load_state_dict(state)


def test_no_checkpoint_of_a_student_gives_one_line(tmp_path):
    path = tmp_path / "x.ckpt"
    with pytest.raises(InputError, match=rf"^ckpt_path={path}: no such file$"):
        load_student(path)
    checkpoint = {"state_dict": {}, "pytorch-lightning_version": "2.6"}
    for settings in ({}, {"hyper_parameters": {"model": "m", "x": 1}}, {"hyper_parameters": {"model": "m", "lr": -1}}):
        torch.save({**checkpoint, **settings}, path)
        with pytest.raises(
            InputError, match=rf"^ckpt_path={path}: not a checkpoint of a reasoning student \([^\n]*\)$"
        ):
            load_student(path)
    torch.save({**checkpoint, "hyper_parameters": {"model": str(tmp_path / "gone")}}, path)
    with pytest.raises(InputError, match=r"x\.ckpt: the student cannot be rebuilt \(.*gone: no such model folder\)$"):
        load_student(path)


EVIL = """
from pathlib import Path
Path("{marker}").touch()
from transformers import Qwen3Config
class Config(Qwen3Config):
    model_type = "evil"
"""


def test_a_checkpoint_does_not_decide_whether_code_may_run(folder, items, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    config = json.loads((base / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (base / "config.json").write_text(json.dumps(config))
    marker = tmp_path / "ran"
    (base / "evil.py").write_text(EVIL.format(marker=marker))
    student = build(folder)
    path = tmp_path / "x.ckpt"
    fit(student, batches(items)).save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"] |= {"model": str(base), "trust_remote_code": True}
    torch.save(checkpoint, path)

    with pytest.raises(InputError, match="the student cannot be rebuilt"):
        load_student(path)

    assert not marker.exists()
    with pytest.raises(InputError, match="the student cannot be rebuilt"):  # a configuration without a model
        load_student(path, trust_remote_code=True)
    assert marker.exists()  # the trap works


def test_rollouts_stop_at_the_end_of_turn_that_is_learnt(folder, tmp_path):
    from transformers import AutoTokenizer

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(other)
    (other / "generation_config.json").unlink(missing_ok=True)
    model = build(other).chat_model()
    learnt = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert learnt in model._stop_ids
    assert tokenizer.eos_token_id in model._stop_ids


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_optimizer_and_clipping_go_together(folder, items, precision):
    # Lightning refuses to clip the gradients of a fused optimizer under mixed precision, where a loss scale needs it.
    student = build(folder)
    trainer = fit(student, batches(items), precision=precision, gradient_clip_val=0.3)
    assert trainer.optimizers[0].defaults["fused"]
    norm = nn.utils.get_total_norm([p.grad for p in student.parameters()])
    assert float(norm) == pytest.approx(0.3, rel=1e-3)

    student = build(folder)
    fit(student, batches(items), precision=precision, gradient_clip_val=0.01, gradient_clip_algorithm="value")
    assert max(float(p.grad.abs().max()) for p in student.parameters()) == pytest.approx(0.01)


def test_vectors_do_not_decay(folder, items):
    trainer = fit(build(folder, weight_decay=0.1), batches(items))

    groups = trainer.optimizers[0].param_groups
    assert {(group["weight_decay"], p.ndim >= 2) for group in groups for p in group["params"]} == {
        (0.1, True),
        (0.0, False),
    }


def test_weights_have_the_dtype_of_the_setting(folder):
    assert build(folder, dtype="bfloat16").network.dtype == torch.bfloat16
    assert build(folder).network.dtype == torch.float32


def test_architecture_from_scratch(folder):
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    student = build(folder, architecture={"model_type": "qwen3", "head_dim": 8, "num_key_value_heads": 1, **shape})

    config = student.network.config
    assert (config.hidden_size, config.vocab_size) == (16, len(student.tokenizer))
    assert config.eos_token_id == student.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"lr": 0.0, "schedule": "step"},
            r"^model: lr is 0\.0, expected more than 0; schedule is 'step', exp",
        ),
        ({"betas": [0.9]}, r"betas are \[0\.9\], expected two numbers"),
        ({"warmup_ratio": 2.0}, "warmup_ratio is 2.0, expected 0 to 1"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"dtype": "int8"}, "dtype is 'int8', expected one of float32, bfloat16"),
        ({"lora": {"rank": 3}}, "lora.rank: no such setting, expected r, alpha, dropout, target_modules"),
        ({"lora": {"target_modules": ["nowhere"]}}, "^lora: "),
        ({"architecture": {"model_type": "qwen99"}}, "architecture of type 'qwen99'"),
        ({"architecture": {"hidden_size": 8}}, "architecture of type None"),
    ],
)
def test_bad_settings_give_one_line(folder, options, complaint):
    with pytest.raises(InputError, match=complaint):
        build(folder, **options)


def test_folder_without_weights_gives_one_line(folder, tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"^{tmp_path}: not a model folder: it has no config\.json$"):
        build(tmp_path)


def test_training_without_an_end_is_refused(folder, items):
    with pytest.raises(InputError, match=r"needs an end: set trainer\.max_steps or max_epochs"):
        fit(build(folder), batches(items), max_epochs=-1)
