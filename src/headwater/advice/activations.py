"""Activations of the user's own model, counted on copies of 2 and 6 layers: nothing has to fit, nothing is assumed."""

from __future__ import annotations

from typing import NamedTuple

import torch

from headwater.model.initialize import random_model
from headwater.model.shape import ModelConfig
from headwater.model.transformer import BlockAttention

LAYERS = (2, 6)
TOKENS = (64, 192)


class Activations(NamedTuple):
    """Bytes that a forward pass keeps for the backward pass."""

    block_bytes: float
    """Of a block, for each token."""
    outside_bytes: float
    """Of embedding, last norm and loss, for each token."""
    fixed_bytes: float
    """Whatever the number of tokens."""

    def bytes_per_token(self, num_layers: int) -> float:
        """Of a whole model."""
        return num_layers * self.block_bytes + self.outside_bytes


def count(config: ModelConfig, precision: str = "fp32") -> Activations:
    """Count saved storages at 2 and 6 layers, for two lengths, and extrapolate in a line in both.

    Weights do not count, and a storage that several operations keep counts once.

    Args:
        config: the model.
        precision: number format of the products, fp32 or bf16.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    short, long = (min(tokens, config.context_length) for tokens in TOKENS)
    if short == long:
        short = max(long // 2, 1)
    at = {(layers, tokens): _saved(config, layers, tokens, dtype) for layers in LAYERS for tokens in (short, long)}
    slopes = [(at[layers, long] - at[layers, short]) / (long - short) for layers in LAYERS]
    block = (slopes[1] - slopes[0]) / (LAYERS[1] - LAYERS[0])
    return Activations(block, slopes[0] - LAYERS[0] * block, at[LAYERS[0], short] - slopes[0] * short)


def _saved(config: ModelConfig, num_layers: int, tokens: int, dtype: torch.dtype) -> int:
    model = random_model(config.model_copy(update={"num_layers": num_layers}), 0)
    model.compute_dtype = dtype
    model.set_attention(BlockAttention())
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    weights |= {buffer.untyped_storage().data_ptr() for buffer in model.buffers()}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = torch.randint(config.token_types, (1, tokens + 1), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.loss(rows[:, :-1], rows[:, 1:])
    del loss
    return sum(sizes.values())
