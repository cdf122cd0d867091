"""The last block of a transformer, only where its outcome is wanted.

What other blocks say about a token is read by the blocks above them, at every later token; what the last one says, by
the output embedding alone. A prompt that is not learnt is half of a training sequence or more, and there the last block
need give no more than keys and values: nothing is looked at from there, projected back or fed forward.

Legend: b sequences, s tokens, h width of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# Columns are left out from this share on. With a mask the attention reads also what it hides: leaving out few columns
# of a long row would cost more than it saves.
WORTH = 1 / 3

_separable: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@contextmanager
def last_block_at(network: Any, columns: int, places: Tensor) -> Iterator[Tensor]:
    """Let a network leave out, in its last block, the columns in front of all places.

    On CPUs, with weights in float32 or float64, with `sdpa`, in blocks of transformers' own code (with adapters or
    without), and where a trial found that the outcome stays the same. Other networks run as they are: also those that
    are compiled, in whole or in part, or compute activations again in the backward pass. No two threads may use one
    network at a time.

    Args:
        network: a causal language model of transformers, or one wrapped by peft.
        columns: s of what it will be given.
        places: [n], which of the b * s hidden states are wanted.

    Yields:
        [n], their places among the hidden states that the network gives now.

    Raises:
        RuntimeError: the network was not run as modules are, so that it has given all columns.
    """
    # Tried in any case, so that processes that share weights take part in it together.
    block = _separable_block(network)
    if block is None or len(places) == 0 or (first := int((places % columns).min())) < WORTH * columns:
        yield places
        return
    with _leaving_out(block, first) as runs:
        yield places - first * (places // columns + 1)
    if len(runs) != 1:
        raise RuntimeError(f"the last block was to run once, and ran {len(runs)} times")


class _Taken(Exception):
    """A block has given its keys and values."""


class _Prefix:
    """In the place of a cache: takes the keys and values of the first columns, and then puts them before the others.

    It has nothing else of a cache: a block that asks for more is not separable.
    """

    def __init__(self) -> None:
        self._states: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """`[b, heads, columns, width]` each."""
        if self._states is None:
            self._states = keys, values
            raise _Taken
        before, these = self._states, (keys, values)
        keys, values = (torch.cat(pair, -2) for pair in zip(before, these, strict=True))
        return keys, values


@contextmanager
def _leaving_out(block: nn.Module, first: int) -> Iterator[list[int]]:
    """Let a block give its outcome from the column `first` on. Yields of how many columns it has been asked so far."""
    runs: list[int] = []

    def in_two(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Ask the block for the keys and values of the first columns; what it is then given are the others."""
        [states] = args
        prefix, columns = _Prefix(), states.shape[1]
        runs.append(columns)
        front, rest = (_of_columns(options, which, columns) for which in (slice(first), slice(first, None)))
        try:
            type(block).forward(block, states[:, :first], **front | {"attention_mask": None, "past_key_values": prefix})
        except _Taken:
            mask = _rows_of_mask(options["attention_mask"], first, columns, states.device)
            return (states[:, first:],), rest | {"attention_mask": mask, "past_key_values": prefix}
        raise TypeError(f"{type(block).__name__} has no keys and values")

    handle = block.register_forward_pre_hook(in_two, with_kwargs=True)
    try:
        yield runs
    finally:
        handle.remove()


def _of_columns(options: Mapping[str, Any], which: slice, columns: int) -> dict[str, Any]:
    """What a block is told besides the hidden states, about some columns. Raises TypeError for what it may not be."""
    told = dict(options)
    if told.pop("past_key_values") is not None:
        raise TypeError("there is a cache")
    del told["attention_mask"]
    positions, angles = told.pop("position_ids", None), told.pop("position_embeddings", None)
    if any(isinstance(value, Tensor | tuple | list) for value in told.values()):
        raise TypeError("the block is told something else about its tokens")
    if positions is not None:
        told["position_ids"] = _cut(positions, 2, which, columns)
    if angles is not None:
        told["position_embeddings"] = tuple(_cut(each, 3, which, columns) for each in angles)
    return told


def _cut(values: Tensor, ndim: int, which: slice, columns: int) -> Tensor:
    if values.ndim != ndim or values.shape[1] != columns:
        raise TypeError(f"of the size {[*values.shape]}, which is not that of {columns} tokens")
    return values[:, which]


def _rows_of_mask(mask: Tensor | None, first: int, columns: int, device: torch.device) -> Tensor:
    """What the tokens from `first` on may look at: of the mask `[b, 1, s, s]`, or of all tokens up to each."""
    if mask is None:
        return torch.ones(columns - first, columns, dtype=torch.bool, device=device).tril(first)[None, None]
    if mask.ndim != 4 or mask.shape[-2:] != (columns, columns):
        raise TypeError(f"the mask {[*mask.shape]} is not one of {columns} tokens")
    return mask[:, :, first:]


def _separable_block(network: Any) -> nn.Module | None:
    """The last block of a network, if it may be left out where nothing is wanted."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    if network.get_output_embeddings() is None:
        return None
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    if base.device.type != "cpu" or base.config._attn_implementation != "sdpa":
        return None
    blocks = [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks or any(map(_is_changed, network.modules())) or not _is_known(blocks[-1]):
        return None
    if network not in _separable:
        _separable[network] = _gives_the_same(network, blocks[-1])
    return blocks[-1] if _separable[network] else None


def _is_changed(module: nn.Module) -> bool:
    """Whether a module is compiled, or computes activations again: with another call than the one that is watched."""
    return (
        module._compiled_call_impl is not None
        or hasattr(module, "_orig_mod")  # torch.compile
        or hasattr(module, "_checkpoint_wrapped_module")  # torch's own wrapper
        or getattr(module, "gradient_checkpointing", False) is True
        or hasattr(vars(module).get("forward"), "__wrapped__")  # network.compile_blocks
    )


def _is_known(block: nn.Module) -> bool:
    """Whether all of a block is code of transformers, torch and peft.

    Where there is no mask, a block of others may make one of its own, of a window that no trial on a few tokens fills.
    """
    known = ("transformers.", "torch.", "peft.")
    return all(str(type(module).forward.__module__).startswith(known) for module in block.modules())


def _gives_the_same(network: Any, block: nn.Module) -> bool:
    """Whether a network gives the same hidden states where its last block leaves out the first ones: tried.

    Families differ: in what their blocks are told, in what reads the last one, and in what a cache must do for them.
    """
    if next(network.parameters()).dtype not in (torch.float32, torch.float64):
        return False
    given: list[Tensor] = []

    def few(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given.append(inputs[0])
        return inputs[0][:1, :1], *inputs[1:]

    first, size = 2, network.get_input_embeddings().weight.shape[0]
    tokens = torch.arange(12).view(2, 6) % size
    handle = network.get_output_embeddings().register_forward_pre_hook(few)
    training = [module for module in network.modules() if module.training]
    try:
        network.eval()
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            network(input_ids=tokens, use_cache=False)
            with _leaving_out(block, first):
                network(input_ids=tokens, use_cache=False)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, AssertionError):
        return False
    finally:
        handle.remove()
        for module in training:
            module.training = True
    if len(given) != 2:
        return False
    wanted, part = given[0][:, first:], given[1]
    return part.shape == wanted.shape and bool((part - wanted).norm() < 1e-4 * wanted.norm())
