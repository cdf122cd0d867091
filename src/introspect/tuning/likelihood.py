"""How likely a causal language model finds given tokens, in little memory.

The logits of a large vocabulary are most of the memory of a training step. They are computed only at the positions that
predict a target, and no more than `CHUNK` of them are held at once: the backward pass computes them again.

Legend: b sequences, s tokens, n targets, v tokens of the vocabulary, h width of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# Logits held at once; half a gigabyte in float32.
CHUNK = 1 << 27

_bare: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def likelihood(
    network: Any, inputs: Mapping[str, Tensor], keep: Tensor, targets: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens, and whether each is the most likely one.

    Args:
        network: a causal language model of transformers, or one wrapped by peft.
        inputs: of its forward, tensors [b, s].
        keep: [b, s] bool, after which tokens the targets stand; or [n], their places in the flattened rows, which may
            repeat.
        targets: [n] int64, the tokens to score, row by row of the batch.
        temperature: by which logits are divided.

    Returns:
        [n] float32, and [n] bool.
    """
    head = network.get_output_embeddings()
    size = getattr(getattr(head, "weight", None), "shape", (0,))[0]
    # Evaluated in any case, so that processes that share weights take part in it together.
    is_bare = size > 0 and _is_bare(network, head, size)
    if len(targets) * size <= CHUNK or not is_bare:
        return _score(predict_at(network, inputs, keep), targets, temperature)
    places = _places(inputs, keep)
    seen: list[Tensor] = []

    def first_only(hidden: Tensor) -> Tensor:
        seen.append(hidden.flatten(0, 1)[places])
        return hidden[:1, :1]

    with _head_sees(head, first_only):
        network(**inputs, use_cache=False)
    rows = max(CHUNK // size, 1)
    parts = [
        checkpoint(lambda states, tokens: _score(head(states), tokens, temperature), *part, use_reentrant=False)
        for part in zip(seen[0].split(rows), targets.split(rows), strict=True)
    ]
    log_probabilities, hits = (torch.cat(values) for values in zip(*parts, strict=True))
    return log_probabilities, hits


def predict_at(network: Any, inputs: Mapping[str, Tensor], keep: Tensor) -> Tensor:
    """Logits at some positions only: no others are ever computed.

    The output embedding is given only the hidden states that are kept, so whatever the model does to its logits (a
    scale, a soft cap) is done as ever. A model without output embedding computes all logits.

    Args:
        network: a causal language model of transformers, or one wrapped by peft.
        inputs: of its forward, tensors [b, s].
        keep: [b, s] bool, which positions are wanted; or [n], their places in the flattened rows, which may repeat.

    Returns:
        [n, v], row by row of the batch.
    """
    head, places = network.get_output_embeddings(), _places(inputs, keep)
    if head is None:
        return network(**inputs, use_cache=False).logits.flatten(0, 1)[places]
    with _head_sees(head, lambda hidden: hidden.flatten(0, 1)[places][None]):
        return network(**inputs, use_cache=False).logits.squeeze(0)


def _score(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """[n, v], [n] -> log-probabilities [n], hits [n]."""
    hits = logits.detach().argmax(-1) == targets
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    return -functional.cross_entropy(logits, targets, reduction="none"), hits


def _places(inputs: Mapping[str, Tensor], keep: Tensor) -> Tensor:
    """Places [n] of the wanted tokens in the flattened rows, from either form of `keep`."""
    shape = inputs["input_ids"].shape
    if keep.ndim == 2 and keep.shape != shape:
        raise IndexError(f"the mask {[*keep.shape]} does not fit the tokens {[*shape]}")
    return keep if keep.ndim == 1 else keep.flatten().nonzero()[:, 0]


@contextmanager
def _head_sees(head: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Change the hidden states [b, s, h] that reach the module."""
    handle = head.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def _is_bare(network: Any, head: nn.Module, size: int) -> bool:
    """Whether the model's logits are what its output embedding gives: no scale, no soft cap. Tried once."""
    if network not in _bare:
        given: list[Tensor] = []
        handle = head.register_forward_hook(lambda *call: given.append(call[2]))
        device = next(network.parameters()).device
        try:
            # Without advancing the random state of the training, which dropout uses.
            with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
                # Several: a padding token may have the embedding 0, whose logits no cap changes.
                tokens = torch.arange(8, device=device)[None] % size
                _bare[network] = torch.equal(network(input_ids=tokens, use_cache=False).logits, given[0])
        finally:
            handle.remove()
    return _bare[network]
