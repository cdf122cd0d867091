"""Hugging Face models from a folder or the hub: load them completely or not at all, and name them by their content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from introspect.core.errors import InputError, first_line
from introspect.core.inference import chosen_device

# Files that determine a model's responses; README, training state and the like do not.
_CONTENT = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*_tokens*.json",
    "chat_template*",
    "*.model",
    "*.py",
)

# Entries of a config that name the model's origin, not what it computes.
_NO_CONTENT = ("_name_or_path", "architectures", "dtype", "transformers_version", "use_cache")


def load_pretrained(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attn_implementation: str = "sdpa",
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Load a causal language model in evaluation mode and its tokenizer. Only safetensors weights are read.

    Args:
        name_or_path: a model folder or a hub id.
        revision: branch, tag or commit on the hub.
        dtype: of the weights: `auto` (as stored) or a torch name such as `float32`.
        device: of the weights; `auto` takes a GPU if there is one.
        attn_implementation: attention of transformers, such as `sdpa` or `eager`.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        InputError: the folder holds no model, a file cannot be read, the weights lack a tensor or do not fit the
            config, or the tokenizer has more tokens than the model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = _source(name_or_path)
    shared = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **shared)
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            **shared,
        )
    except Exception as error:  # Any error of the libraries (tokenizers raises Exception) is about these files.
        raise InputError(f"{source}: cannot be loaded as a causal language model: {first_line(error)}") from error
    if missing := sorted(report["missing_keys"]) or sorted(map(str, report["mismatched_keys"])):
        raise InputError(
            f"{source}: {len(missing)} tensors are missing or misshapen in the weights, first {missing[0]}"
        )
    if len(tokenizer) > (rows := model.get_input_embeddings().weight.shape[0]):
        raise InputError(f"{source}: the tokenizer has {len(tokenizer)} tokens, the model embeds only {rows}")
    return model.to(chosen_device(device)).eval(), tokenizer


def source_identity(name_or_path: str | Path, config: Any, revision: str | None = None) -> str:
    """Return the name of a model in a store: a hub id and its commit, or the digest of a folder."""
    source = _source(name_or_path)
    if Path(source).is_dir():
        return f"sha256:{folder_digest(Path(source))}"
    return f"{source}@{getattr(config, '_commit_hash', None) or revision or 'main'}"


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of the files in a model folder that determine its responses."""
    files = sorted({file for pattern in _CONTENT for file in folder.glob(pattern) if file.is_file()})
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def weights_digest(model: Any, tokenizer: Any) -> str:
    """Return the SHA-256 of a model in memory: its config, its tensors, and the tokenizer's vocabulary."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NO_CONTENT}
    total = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    for token, index in sorted(tokenizer.get_vocab().items()):
        total.update(f"{token}\0{index}\n".encode())
    return total.hexdigest()


def _source(name_or_path: str | Path) -> str:
    """Return the folder or hub id; InputError for a path without a model folder."""
    text = str(name_or_path)
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{path}: not a model folder: it has no config.json")
        return str(path)
    if isinstance(name_or_path, Path) or path.exists() or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise InputError(f"{path}: no such folder; expected a Hugging Face model folder or a hub id")
    return text
