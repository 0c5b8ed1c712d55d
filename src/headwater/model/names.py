"""The weights of the families under the names of transformers.

Here queries, keys and values are one matrix, and so are gate and up; there they are apart, but for GPT-2, whose matrices
are transposed. Everything else has only another name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.model.families import HINT
from headwater.model.shape import ModelConfig
from headwater.model.transformer import Transformer


class Names(NamedTuple):
    """How a family names its modules; `.weight` or `.bias` follows."""

    outer: Mapping[str, str]
    layer: str
    block: Mapping[str, tuple[str, ...]]
    """More than one: parts of a joint matrix, in this order."""
    transposed: bool = False
    """Matrices of the blocks stand there as [inputs, outputs]."""


_LLAMA_NAMES = Names(
    outer={"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"},
    layer="model.layers",
    block={
        "attention_norm": ("input_layernorm",),
        "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.q_norm": ("self_attn.q_norm",),
        "attention.k_norm": ("self_attn.k_norm",),
        "attention.out": ("self_attn.o_proj",),
        "ffn_norm": ("post_attention_layernorm",),
        "ffn.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "ffn.up": ("mlp.up_proj",),
        "ffn.down": ("mlp.down_proj",),
    },
)
_GPT2_NAMES = Names(
    outer={
        "embedding": "transformer.wte",
        "positions": "transformer.wpe",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    layer="transformer.h",
    block={
        "attention_norm": ("ln_1",),
        "attention.qkv": ("attn.c_attn",),
        "attention.out": ("attn.c_proj",),
        "ffn_norm": ("ln_2",),
        "ffn.up": ("mlp.c_fc",),
        "ffn.down": ("mlp.c_proj",),
    },
    transposed=True,
)


def to_huggingface(model: Transformer) -> dict[str, Tensor]:
    """The weights of a model without tricks under the names of transformers; rows of padding are left out."""
    assert not model.config.tricks, "fold() comes first"
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        parts, transposed = _names(name, model.config)
        if name in ("embedding.weight", "head.weight"):
            tensor = tensor[: model.config.token_types]
        for part, piece in zip(parts, tensor.split(_rows(tensor, len(parts), model.config)), strict=True):
            tensors[part] = piece.T if transposed else piece
    return tensors


def from_huggingface(tensors: Mapping[str, Tensor], model: Transformer, place: str) -> dict[str, Tensor]:
    """The weights of a Hugging Face model under the names of `model`, in fp32.

    Raises:
        MismatchError: a tensor is missing, is one too many, or has another shape.
    """
    config = model.config
    given = dict(_cleaned(tensors, config))
    weights: dict[str, Tensor] = {}
    for name, expected in model.state_dict().items():
        parts, transposed = _names(name, config)
        if missing := [part for part in parts if part not in given]:
            raise MismatchError(f"tensor {missing[0]} is missing", place=place, hint=HINT)
        for part, rows in zip(parts, _rows(expected, len(parts), config), strict=True):
            shape = (rows, *expected.shape[1:])
            shape = shape[::-1] if transposed else shape
            if tuple(given[part].shape) != shape:
                problem = f"tensor {part} is {tuple(given[part].shape)}, expected {shape}"
                raise MismatchError(problem, place=place, hint="config.json and weights do not belong together")
        pieces = [given.pop(part).float() for part in parts]
        weights[name] = torch.cat([piece.T if transposed else piece for piece in pieces]).contiguous()
    if given:
        raise MismatchError(f"tensor {min(given)} has no place in the model", place=place, hint=HINT)
    return weights


def _cleaned(tensors: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Leave out what writers of older versions stored beside the weights, and complete shortened names."""
    for name, tensor in tensors.items():
        if name == "lm_head.weight" and config.tie_embeddings:
            continue  # the tied matrix twice
        if name.endswith(("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")):
            continue  # tables and masks that follow from the shape
        short = config.family == "gpt2" and not name.startswith(("transformer.", "lm_head."))
        yield f"transformer.{name}" if short else name, tensor  # as in the files of OpenAI's own GPT-2


def _names(name: str, config: ModelConfig) -> tuple[list[str], bool]:
    """The names of a tensor of ours there, more than one for a joint one, and whether it stands there transposed."""
    names = _GPT2_NAMES if config.family == "gpt2" else _LLAMA_NAMES
    module, _, kind = name.rpartition(".")
    if not module.startswith("blocks."):
        return [f"{names.outer[module]}.{kind}"], False
    _, layer, inner = module.split(".", 2)
    matrix = kind == "weight" and not inner.endswith("norm")
    return [f"{names.layer}.{layer}.{part}.{kind}" for part in names.block[inner]], names.transposed and matrix


def _rows(tensor: Tensor, parts: int, config: ModelConfig) -> list[int]:
    """Rows of each part of a tensor."""
    kv = config.num_kv_heads * config.head_size
    return {1: [len(tensor)], 2: [config.ffn_size] * 2, 3: [config.num_heads * config.head_size, kv, kv]}[parts]
