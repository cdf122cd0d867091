"""Random weights with which a small transformer learns to look things up within minutes instead of hours.

Copying from context takes two attention layers that must agree: one writes at each position what stands before it, the
next compares those notes and copies what it finds (the induction circuit; Olsson et al. 2022, arXiv 2209.11895). From
independent random matrices this agreement is found late, if at all. As in mimetic initialization (Trockman and Kolter
2023, arXiv 2305.09828), matrices that belong together begin as each other's transpose, so that what is written can be
compared from the first step. All of it is trained afterwards.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from introspect.core.errors import InputError

# Tokens before a position that the first layer notes, one per head.
WINDOW = 4
# Rotations per token (radians) above which a pair of dimensions tells neighbours apart, and below which it does not
# disturb a comparison over a few hundred tokens.
FAST, SLOW = 0.05, 0.01
EMBEDDING, NOTE, COPY = (
    0.1,
    0.12,
    0.25,
)  # standard deviation of an embedding's entries; gains of the two layers' outputs
NOISE = 0.01
SHARPNESS = 2.0  # of the attention of both layers


@torch.no_grad()
def induction_ready(network: Any, seed: int) -> None:
    """Initialise the first two layers and the embeddings of a Qwen3 for copying; the rest stays as it is.

    Args:
        network: a `Qwen3ForCausalLM` with as many key-value heads as heads and two layers or more.
        seed: of the random directions.

    Raises:
        InputError: the network is of another kind.
    """
    config = network.config
    if config.model_type != "qwen3" or config.num_key_value_heads != config.num_attention_heads:
        raise InputError("architecture.induction_ready: expected qwen3 with num_key_value_heads = num_attention_heads")
    generator = torch.Generator().manual_seed(seed)
    width, head = config.hidden_size, config.head_dim
    theta = float(config.rope_parameters["rope_theta"])
    frequency = theta ** (-torch.arange(head // 2) / (head // 2))
    shared = torch.nn.functional.normalize(torch.randn(width, generator=generator), dim=0)
    _embed(network.get_input_embeddings().weight, shared, generator)
    notes, compares = (layer.self_attn for layer in network.model.layers[:2])
    for number in range(config.num_attention_heads):
        rows = slice(number * head, (number + 1) * head)
        query, key = _look_back(1 + number % WINDOW, frequency)
        for weight, direction in ((notes.q_proj.weight, query), (notes.k_proj.weight, key)):
            noise = NOISE * torch.randn(head, width, generator=generator)
            weight[rows] = 0.5 * torch.outer(direction, shared) + noise
        steady = (frequency < SLOW).repeat(2)[:, None]
        comparison = 0.3 * _orthonormal(head, shared, generator) * steady
        for weight in (compares.q_proj.weight, compares.k_proj.weight):
            weight[rows] = comparison + NOISE * torch.randn(head, width, generator=generator)
        for attention, gain in ((notes, NOTE), (compares, COPY)):
            basis = _orthonormal(head, shared, generator)
            attention.v_proj.weight[rows] = basis
            attention.o_proj.weight[:, rows] = gain * basis.T
    for attention in (notes, compares):
        attention.q_norm.weight.fill_(SHARPNESS)


def _embed(weight: Tensor, shared: Tensor, generator: torch.Generator) -> None:
    """Embeddings [v, width]: one direction common to all, by which positions are found, and a random rest."""
    rest = EMBEDDING * torch.randn(weight.shape, generator=generator)
    rest -= torch.outer(rest @ shared, shared)
    weight.copy_(rest + EMBEDDING * math.sqrt(len(shared)) * shared)


def _look_back(offset: int, frequency: Tensor) -> tuple[Tensor, Tensor]:
    """Query and key, [head] each, whose rotary product is largest where the key stands `offset` tokens earlier."""
    fast = frequency > FAST
    angle = -offset * frequency
    query = torch.cat([angle.cos() * fast, angle.sin() * fast])
    return query, torch.cat([fast.float(), torch.zeros_like(frequency)])


def _orthonormal(rows: int, shared: Tensor, generator: torch.Generator) -> Tensor:
    """`rows` random orthonormal rows, [rows, width], orthogonal to the shared direction."""
    columns = torch.randn(len(shared), len(shared), generator=generator)
    columns[:, 0] = shared
    return torch.linalg.qr(columns)[0][:, 1 : 1 + rows].T
