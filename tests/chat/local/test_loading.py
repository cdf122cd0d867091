from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from introspect.chat.local.loading import folder_digest, load_pretrained, source_identity, weights_digest
from introspect.core.errors import InputError
from tests.tuning.tiny import tiny_folder, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(origin: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(origin, tmp_path / "copy"))


def test_a_folder_loads_as_it_was_saved(folder: Path) -> None:
    model, tokenizer = load_pretrained(folder, device="cpu")
    assert not model.training
    assert model.dtype == torch.float32
    assert len(tokenizer) == model.config.vocab_size
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in saved.items())
    assert load_pretrained(str(folder), dtype="bfloat16")[0].dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "~/nowhere-at-all", "a/b/c"])
def test_a_path_that_leads_nowhere(name: str) -> None:
    with pytest.raises(InputError, match="no such folder; expected a Hugging Face model folder or a hub id"):
        load_pretrained(name)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}: not a model folder: it has no config.json"):
        load_pretrained(tmp_path)
    file = tmp_path / "weights"
    file.write_text("x")
    with pytest.raises(InputError, match="weights: no such folder"):
        load_pretrained(file)


def test_a_hub_id_that_cannot_be_had() -> None:
    with pytest.raises(InputError, match=r"^nobody/no-such-model: cannot be loaded as a causal language model: \S+"):
        load_pretrained("nobody/no-such-model")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b'{"model_type": "no-such-type"}'])
def test_damaged_files_give_one_line(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be loaded as a causal language model") as caught:
        load_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_weights_are_complete_or_refused(folder: Path) -> None:
    """transformers itself fills a missing tensor with random numbers and goes on."""
    tensors = load_file(folder / "model.safetensors")
    lost = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 tensors are missing .* first model.layers.1.mlp.up_proj.weight"):
        load_pretrained(folder)
    tensors["model.layers.1.mlp.up_proj.weight"] = lost[:-1].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="copy"):
        load_pretrained(folder)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model(261).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_pretrained(folder)


def test_a_tokenizer_too_large_for_the_model(folder: Path) -> None:
    tiny_tokenizer(tags=True).save_pretrained(folder)
    with pytest.raises(InputError, match="the tokenizer has 261 tokens, the model embeds only 259"):
        load_pretrained(folder)


def test_a_folder_is_named_by_what_decides_its_answers(origin: Path, folder: Path) -> None:
    name = folder_digest(origin)
    assert folder_digest(folder) == name
    (folder / "README.md").write_text("about")
    (folder / "trainer_state.json").write_text("{}")
    assert folder_digest(folder) == name
    names = {name}
    for file in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"):
        with (folder / file).open("ab") as stream:
            stream.write(b" ")
        names.add(folder_digest(folder))
    assert len(names) == 6


def test_identity_of_folders_and_hub_ids(origin: Path) -> None:
    config = tiny_model(259).config
    assert source_identity(origin, config) == f"sha256:{folder_digest(origin)}"
    assert source_identity("owner/name", config) == "owner/name@main"
    assert source_identity("owner/name", config, "v2") == "owner/name@v2"
    config._commit_hash = "c0ffee"
    assert source_identity("owner/name", config, "v2") == "owner/name@c0ffee"


def test_a_model_in_memory_is_named_by_its_weights(origin: Path) -> None:
    tokenizer = tiny_tokenizer()
    name = weights_digest(tiny_model(len(tokenizer)), tokenizer)
    assert weights_digest(*load_pretrained(origin, device="cpu")) == name
    assert weights_digest(tiny_model(len(tokenizer), seed=1), tokenizer) != name
    assert weights_digest(tiny_model(len(tokenizer), context=100), tokenizer) != name
    changed = tiny_model(len(tokenizer))
    with torch.no_grad():
        changed.model.norm.weight[0] += 1e-6
    assert weights_digest(changed, tokenizer) != name
    assert weights_digest(changed.bfloat16(), tokenizer)
