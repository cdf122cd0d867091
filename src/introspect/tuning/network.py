"""A student's network before it is trained: random weights, adapters, and what makes steps faster or smaller.

What makes steps faster or smaller does not change what is computed, except for rounding, nor the names of the weights.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import nn

from introspect.core.errors import InputError, first_line
from introspect.tuning.initialization import induction_ready

# Of Liger's kernels, those that stay out: the loss is computed by `likelihood`, at the supervised tokens only, and the
# rotary embedding is replaced in a whole module of transformers and not in one network.
_NOT_LIGER = ("rope", "cross_entropy", "fused_linear_cross_entropy")


def random_network(architecture: Mapping[str, Any], tokenizer: Any, *, dtype: str, **options: Any) -> Any:
    """A network with random weights.

    Args:
        architecture: `model_type`, fields of that type's configuration in transformers, and `induction_ready`, the seed
            of `initialization.induction_ready`; without it the weights are random in the usual way.
        tokenizer: whose vocabulary and special tokens it has, where `architecture` says nothing else.
        dtype: name of the kind of number its weights are.
        options: of `AutoModelForCausalLM.from_config`.

    Raises:
        InputError: there is no such type, or a field does not fit it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(architecture)
    kind, prepared = fields.pop("model_type", None), fields.pop("induction_ready", None)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    try:
        config = AutoConfig.for_model(kind, **{"vocab_size": len(tokenizer), **special, **fields})
        network = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), **options)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"architecture of type {kind!r}: {first_line(error)}") from error
    if prepared is not None:
        induction_ready(network, seed=int(prepared))
    return network


def with_lora(network: Any, lora: Mapping[str, Any]) -> Any:
    """Freeze the network and add adapters to it.

    Args:
        network: a causal language model of transformers.
        lora: `r`, `alpha`, `dropout` and `target_modules`, each of which may be left out.

    Raises:
        InputError: another setting, or one that does not fit the network.
    """
    from peft import LoraConfig, get_peft_model

    settings = {"r": 16, "alpha": 32, "dropout": 0.0, "target_modules": "all-linear", **lora}
    known = ("r", "alpha", "dropout", "target_modules")
    if unknown := [name for name in settings if name not in known]:
        raise InputError(f"lora.{unknown[0]}: no such setting, expected {', '.join(known)}")
    try:
        config = LoraConfig(
            r=settings["r"],
            lora_alpha=settings["alpha"],
            lora_dropout=settings["dropout"],
            target_modules=settings["target_modules"],
            task_type="CAUSAL_LM",
        )
        return get_peft_model(network, config)
    except (ValueError, TypeError) as error:
        raise InputError(f"lora: {first_line(error)}") from error


def recompute_activations(network: Any) -> None:
    """Have each block compute its activations again in the backward pass instead of keeping them."""
    # Renamed in the course of transformers 5.
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def each_block(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """A policy of FSDP: the blocks of a transformer are units, and what is around them is one (tied embeddings too)."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return recurse or isinstance(module, GradientCheckpointingLayer)


def compile_blocks(network: nn.Module) -> None:
    """Have torch compile the forward pass of each block, when one is first run with gradients.

    All blocks are of one kind and share what was compiled, so that a deep network takes no longer than a shallow one.
    Without gradients, in validation and while the student answers, blocks run as they are: there the shapes change with
    every step.

    Raises:
        InputError: the network has no blocks that transformers knows as such.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise InputError(f"model.compile: {type(network).__name__} has no blocks to compile; set model.compile=false")
    for block in blocks:
        block.forward = _with_gradients(torch.compile(block.forward), block.forward)


def _with_gradients(compiled: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(plain)
    def forward(*args: Any, **options: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else plain)(*args, **options)

    return forward


def use_liger(network: Any) -> None:
    """Replace the norms and gated layers of a network, with or without adapters, by Liger's kernels.

    Hsu et al., Liger Kernel: Efficient Triton Kernels for LLM Training, arXiv 2410.10989. Other networks of the process
    stay as they are.

    Raises:
        InputError: the package is not installed, or has no kernels for this type of model.
    """
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError as error:
        raise InputError(
            'model.liger: needs the package liger-kernel: pip install "introspect[liger]", or set model.liger=false'
        ) from error
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    kind = base.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        known = ", ".join(name for name in ("llama", "qwen2", "qwen3") if name in MODEL_TYPE_TO_APPLY_LIGER_FN)
        raise InputError(
            f"model.liger: no kernels for models of type {kind}, but for {known}, …; set model.liger=false"
        )
    apply = MODEL_TYPE_TO_APPLY_LIGER_FN[kind]
    options = {name: False for name in _NOT_LIGER if name in inspect.signature(apply).parameters}
    # It also puts its classes into the module of transformers, for networks that will be built: those are taken out.
    names = vars(sys.modules[type(base).__module__])
    before = dict(names)
    try:
        apply(model=base, **options)
    finally:
        names.update(before)
