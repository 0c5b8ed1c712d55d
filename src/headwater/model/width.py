"""The width of a model: which dimension of each tensor counts what, and how to choose some of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.model.shape import ModelConfig

OUTER_AXES = {
    "embedding.weight": ("vocabulary", "hidden"),
    "positions.weight": ("position", "hidden"),
    "norm.weight": ("hidden",),
    "norm.bias": ("hidden",),
    "head.weight": ("vocabulary", "hidden"),
}
BLOCK_AXES = {
    "attention_norm.weight": ("hidden",),
    "attention_norm.bias": ("hidden",),
    "attention.qkv.weight": ("qkv", "hidden"),
    "attention.qkv.bias": ("qkv",),
    "attention.q_norm.weight": ("head_size",),
    "attention.k_norm.weight": ("head_size",),
    "attention.out.weight": ("hidden", "queries"),
    "attention.out.bias": ("hidden",),
    "ffn_norm.weight": ("hidden",),
    "ffn_norm.bias": ("hidden",),
    "ffn.gate_up.weight": ("gate_up", "hidden"),
    "ffn.gate_up.bias": ("gate_up",),
    "ffn.up.weight": ("ffn", "hidden"),
    "ffn.up.bias": ("ffn",),
    "ffn.down.weight": ("hidden", "ffn"),
    "ffn.down.bias": ("hidden",),
}
"""What each dimension of a tensor counts. `qkv`: query heads, then key heads, then value heads, each head_size long;
`queries`: query heads alone; `gate_up`: the gates of all neurons, then their values."""


class Choice(NamedTuple):
    """What of a layer to take, in this order; the same one may come several times."""

    neurons: Tensor
    """Neurons of the feed-forward layer [int64]."""
    heads: Tensor
    """Query heads [int64]; those of each key head stand together."""
    kv_heads: Tensor
    """Key and value heads [int64]."""


def axes_of(name: str) -> tuple[str, ...]:
    """What the dimensions of a tensor count.

    Raises:
        MismatchError: the tensor is not one that is known here.
    """
    part = name.split(".", 2)[2] if name.startswith("blocks.") else name
    axes = (BLOCK_AXES if name.startswith("blocks.") else OUTER_AXES).get(part)
    if axes is None:
        problem = f"the width of models with a tensor {part} cannot be changed"
        raise MismatchError(problem, place="initialize", hint="change the number of layers instead")
    return axes


def choose(
    weights: Mapping[str, Tensor], config: ModelConfig, choices: Sequence[Choice], hidden: Tensor
) -> dict[str, Tensor]:
    """Copy the chosen parts of all tensors.

    Args:
        weights: of the source, by name.
        config: shape of the source.
        choices: for each layer.
        hidden: dimensions of the residual stream to take [int64], the same for all layers.
    """
    chosen = {}
    for name, tensor in weights.items():
        choice = choices[int(name.split(".")[1])] if name.startswith("blocks.") else None
        picked = tensor.detach()
        for dimension, axis in enumerate(axes_of(name)):
            index = hidden if axis == "hidden" else _index(axis, choice, config)
            picked = picked if index is None else picked.index_select(dimension, index)
        chosen[name] = picked.clone()
    return chosen


def head_rows(heads: Tensor, config: ModelConfig) -> Tensor:
    """The rows that belong to some heads [heads x head_size]."""
    return (heads[:, None] * config.head_size + torch.arange(config.head_size)).flatten()


def _index(axis: str, choice: Choice | None, config: ModelConfig) -> Tensor | None:
    if choice is None or axis == "head_size":
        return None
    if axis == "ffn":
        return choice.neurons
    if axis == "gate_up":
        return torch.cat([choice.neurons, choice.neurons + config.ffn_size])
    queries = head_rows(choice.heads, config)
    if axis == "queries":
        return queries
    assert axis == "qkv", axis
    keys = head_rows(choice.kv_heads, config)
    first_key = config.num_heads * config.head_size
    first_value = first_key + config.num_kv_heads * config.head_size
    return torch.cat([queries, first_key + keys, first_value + keys])
