from __future__ import annotations

import sys
from functools import partial

import pytest
import torch
from torch import nn

from introspect.chat.protocol import Message
from introspect.core.errors import InputError
from introspect.tuning.likelihood import likelihood
from introspect.tuning.network import compile_blocks, recompute_activations, use_liger, with_lora
from introspect.tuning.packing import collate, collate_groups
from introspect.tuning.student import ReasoningStudent
from introspect.tuning.supervision import Supervised, supervise
from tests.tuning.tiny import tiny_folder, tiny_model, tiny_tokenizer

GROUP = tuple(Supervised((5, 6, 7, 8, *end), 4) for end in ((9, 10, 11), (12, 13), (14,)))


@pytest.fixture
def compiled(monkeypatch):
    """What is compiled is traced and differentiated as ever, but run by torch itself: no compiler is waited for."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    calls = []

    def counting(graph, inputs):
        def run(*given):
            calls.append(len(given))
            return graph(*given)

        return run

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counting))
    yield calls
    torch._dynamo.reset()


def losses(network, batch):
    """Loss and gradients on a batch of sequences, or of packed rows."""
    student = ReasoningStudent(model="unused")
    student.network = network
    loss = student._losses(batch)[0]
    trained = [p for p in network.parameters() if p.requires_grad]
    return loss, torch.autograd.grad(loss, trained)


def prepared(*, lora=False, recompute=False):
    network = tiny_model(64)
    if recompute:
        recompute_activations(network)
    if lora:
        torch.manual_seed(0)
        network = with_lora(network, {"r": 2})
        for name, value in network.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(value)
    return network.train()


@pytest.mark.parametrize("packing", ["none", "shared_prompt"])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks_give_the_same_loss_and_gradients(compiled, packing, lora, recompute):
    batch = collate_groups([GROUP], 0, packing)
    plain = prepared(lora=lora, recompute=recompute)
    fast = prepared(lora=lora, recompute=recompute)
    compile_blocks(fast)
    assert plain.state_dict().keys() == fast.state_dict().keys()
    torch.testing.assert_close(losses(fast, batch), losses(plain, batch))
    assert compiled


def test_blocks_share_what_is_compiled_and_answers_are_not(compiled):
    network = prepared()
    compile_blocks(network)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        network(input_ids=ids, use_cache=False)
    assert not compiled
    network(input_ids=ids, use_cache=False)
    assert len(compiled) == 2  # a call for each of the two blocks …
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # … of one graph


@pytest.mark.slow
def test_torchs_own_compiler_gives_the_same_loss_and_gradients():
    torch._dynamo.reset()
    batch = collate_groups([GROUP], 0, "shared_prompt")
    fast = prepared()
    compile_blocks(fast)
    torch.testing.assert_close(losses(fast, batch), losses(prepared(), batch))


def test_a_network_without_blocks():
    with pytest.raises(InputError, match=r"Linear has no blocks to compile; set model.compile=false"):
        compile_blocks(nn.Linear(2, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("base"))


def fit(student, **options):
    from lightning.pytorch import Trainer
    from torch.utils.data import DataLoader

    tokenizer = tiny_tokenizer()
    items = [supervise(tokenizer, [Message("user", f"Who is {i}?")], "No" * i) for i in range(1, 5)]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "devices": 1}
    trainer = Trainer(max_epochs=2, **{"accelerator": "cpu", "enable_checkpointing": False, **quiet, **options})
    trainer.fit(student, DataLoader(items, batch_size=4, collate_fn=lambda chosen: collate(chosen, 0)))
    return trainer


def test_a_student_is_trained_compiled_and_nothing_of_it_is_saved(folder, compiled, tmp_path):
    students = [ReasoningStudent(model=str(folder), compile=compile) for compile in (False, True)]
    trainers = [fit(student) for student in students]
    assert compiled
    plain, fast = (student.state_dict() for student in students)
    assert plain.keys() == fast.keys()
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, msg=name)
    for number, trainer in enumerate(trainers):
        trainer.save_checkpoint(tmp_path / f"{number}.ckpt")
    first, second = (torch.load(tmp_path / f"{number}.ckpt", weights_only=True) for number in range(2))
    assert first["hyper_parameters"] == second["hyper_parameters"]
    assert "compile" not in first["hyper_parameters"]


def test_liger_without_a_gpu(folder):
    with pytest.raises(InputError, match=r"model.liger: runs on a CUDA GPU, not on cpu; set model.liger=false"):
        fit(ReasoningStudent(model=str(folder), liger=True))


def test_liger_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", None)
    with pytest.raises(InputError, match=r'pip install "introspect\[liger\]", or set model.liger=false'):
        use_liger(tiny_model(64))


def liger():
    return pytest.importorskip("liger_kernel", reason="needs liger-kernel: uv sync --extra liger")


@pytest.mark.parametrize("lora", [False, True])
def test_liger_takes_over_norms_and_gated_layers_of_one_network(lora):
    liger()
    from transformers.models.qwen3 import modeling_qwen3

    before, names = dict(vars(modeling_qwen3)), prepared(lora=lora).state_dict().keys()
    network = prepared(lora=lora)
    use_liger(network)
    kernels = {m.forward.__module__.split(".")[0] for m in network.modules() if "Norm" in type(m).__name__}
    assert kernels == {"liger_kernel"}
    assert {m.forward.__module__ for m in network.modules() if type(m).__name__ == "Qwen3MLP"} == {
        "liger_kernel.transformers.swiglu"
    }
    base = network.get_base_model() if lora else network
    assert "forward" not in vars(base)  # the loss is ours
    assert dict(vars(modeling_qwen3)) == before
    assert network.state_dict().keys() == names


def test_liger_knows_not_every_model():
    liger()
    from transformers import GPT2Config, GPT2LMHeadModel

    network = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(InputError, match=r"no kernels for models of type gpt2, but for llama, qwen2, qwen3, …"):
        use_liger(network)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ligers_loss_is_the_same(dtype):
    liger()
    found = []
    for prepare in (lambda network: None, use_liger, compile_blocks):
        network = prepared().to("cuda", dtype)
        prepare(network)
        ids = torch.arange(3, 35, device="cuda")[None]
        keep = torch.arange(32, device="cuda")[None] < 31
        values = likelihood(network, {"input_ids": ids}, keep, ids[0, 1:])[0]
        found.append((values, *torch.autograd.grad(values.mean(), list(network.parameters()))))
    exact = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.05}
    for other in found[1:]:
        for value, expected in zip(other, found[0], strict=True):
            torch.testing.assert_close(value, expected, **exact)


@pytest.mark.gpu
def test_a_student_is_trained_on_a_gpu_with_all_of_it(folder):
    liger()
    plain, fast = (
        ReasoningStudent(model=str(folder), compile=on, liger=on, gradient_checkpointing=on) for on in (False, True)
    )
    losses = [
        float(fit(s, accelerator="gpu", precision="bf16-mixed").callback_metrics["train/loss"]) for s in (plain, fast)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
