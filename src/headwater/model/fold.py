"""Write the tricks of a model into plain weights: the same function, of a shape that every software knows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from headwater.model.shape import ModelConfig
from headwater.model.transformer import Transformer
from headwater.model.tricks import Tricks


def fold(model: Transformer) -> Transformer:
    """A model without tricks that computes what `model` does; `model` itself where it has none.

    In exact arithmetic both are equal, with `norm_epsilon` as it is. Here products are made in fp64 and rounded once to
    the type of the weights.
    """
    config = model.config
    if not config.tricks:
        return model
    plain = Transformer(config.model_copy(update={"tricks": Tricks()}))
    given = {name: tensor.detach().double() for name, tensor in model.state_dict().items()}
    weights = {name: given.get(name, tensor.detach().double()) for name, tensor in plain.state_dict().items()}
    with torch.no_grad():
        _fold_outside(weights, config)
        for layer, share in enumerate(_shares(given, config)):
            _fold_block(weights, f"blocks.{layer}.", config, share)
    dtype, device = model.embedding.weight.dtype, model.embedding.weight.device
    plain.load_state_dict({name: tensor.to(device, dtype) for name, tensor in weights.items()}, assign=True)
    plain.reset_buffers(device)
    plain.compute_dtype = model.compute_dtype
    return plain.train(model.training)


def _fold_outside(weights: dict[str, Tensor], config: ModelConfig) -> None:
    """Embeddings and last norm. What a tied matrix was multiplied by for the embedding is taken back in the norm."""
    tricks = config.tricks
    if tricks.embedding_norm:
        rows = weights["embedding.weight"]
        weights["embedding.weight"] = F.rms_norm(rows, (rows.shape[-1],), None, config.norm_epsilon)
    weights["embedding.weight"] = weights["embedding.weight"] * tricks.embedding_multiplier
    tied = tricks.embedding_multiplier if config.tie_embeddings else 1.0
    _multiply(weights, "norm", config.logit_scale / tied)


def _fold_block(weights: dict[str, Tensor], block: str, config: ModelConfig, share: Tensor | float) -> None:
    """Shares in what writes to the residual stream, the scale of queries in their norm or else in their rows."""
    for name in ("attention.out", "ffn.down"):
        _multiply(weights, block + name, share)
    if config.qk_norm:
        return _multiply(weights, f"{block}attention.q_norm", config.query_scale)
    queries = config.num_heads * config.head_size
    for kind in ("weight", "bias") if config.bias else ("weight",):
        joint = weights[f"{block}attention.qkv.{kind}"]
        weights[f"{block}attention.qkv.{kind}"] = torch.cat([joint[:queries] * config.query_scale, joint[queries:]])
    return None


def _multiply(weights: dict[str, Tensor], module: str, factor: Tensor | float) -> None:
    for name in (f"{module}.weight", f"{module}.bias"):
        if name in weights:
            weights[name] = weights[name] * factor


def _shares(given: dict[str, Tensor], config: ModelConfig) -> list[Tensor | float]:
    """By layer, what multiplies that which it adds."""
    factor = config.tricks.residual_multiplier
    if "residual_scales" not in given:
        return [factor] * config.num_layers
    return list(factor / given["residual_scales"].cumprod(0))
