"""The families of models under the names of transformers: config.json, and the names and shapes of tensors.

Here queries, keys and values are one matrix, and so are gate and up; there they are apart, but for GPT-2, whose matrices
are transposed. Everything else has only another name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.model.shape import Family, ModelConfig
from headwater.model.transformer import Transformer


@dataclass(frozen=True)
class Architecture:
    """A class of transformers, and what its settings are where config.json does not say.

    Source of the defaults: the configuration classes of transformers 5.
    """

    name: str
    model_type: str
    family: Family
    defaults: Mapping[str, Any]


_LLAMA = {
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}
ARCHITECTURES = (
    Architecture("LlamaForCausalLM", "llama", "llama", _LLAMA),
    Architecture("Qwen3ForCausalLM", "qwen3", "qwen3", _LLAMA | {"max_position_embeddings": 32_768, "head_dim": 128}),
    Architecture(
        "ArceeForCausalLM",
        "arcee",
        "arcee",
        _LLAMA | {"hidden_act": "relu2", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
    ),
    Architecture(
        "GPT2LMHeadModel",
        "gpt2",
        "gpt2",
        {
            "vocab_size": 50_257,
            "n_positions": 1024,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
            "tie_word_embeddings": True,
        },
    ),
    # computed as a Llama, and exported as one: within its sliding window a Mistral is a Llama
    Architecture(
        "MistralForCausalLM", "mistral", "llama", _LLAMA | {"max_position_embeddings": 131_072, "sliding_window": 4096}
    ),
)
"""Those that this code computes exactly; of each family the first is what it is exported as."""

_KNOWN = ", ".join(known.name for known in ARCHITECTURES)
HINT = f"models that can be imported are {_KNOWN}, without extras; others can still be compared with, by transformers"


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


def architecture(config: ModelConfig) -> str:
    """The class of transformers that computes this model."""
    return _of_family(config.family).name


def huggingface_config(config: ModelConfig, separator: int) -> dict[str, Any]:
    """The content of config.json; rows of padding are not exported."""
    assert not config.tricks, "fold() comes first"
    made = _of_family(config.family)
    values: dict[str, Any] = {
        "architectures": [made.name],
        "model_type": made.model_type,
        "vocab_size": config.token_types,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "use_cache": True,
        "bos_token_id": separator,
        "eos_token_id": separator,
        "pad_token_id": separator,
    }
    return values | (_gpt2_settings(config) if config.family == "gpt2" else _llama_settings(config))


def _llama_settings(config: ModelConfig) -> dict[str, Any]:
    values = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "relu2" if config.ffn == "relu2" else "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,  # where transformers 4 looks
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},  # where transformers 5 looks
        "attention_bias": config.bias,
        "attention_dropout": 0.0,
    }
    return values if config.qk_norm else {**values, "mlp_bias": config.bias}


def _gpt2_settings(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_embd": config.hidden_size,
        "n_inner": config.ffn_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_positions": config.context_length,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_epsilon,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def model_config(values: Mapping[str, Any], place: str) -> ModelConfig:
    """The shape that a config.json describes.

    A model with a sliding window is taken with a context as long as the window, within which the window hides nothing.

    Raises:
        MismatchError: the model is not one that this code computes exactly; names what differs.
    """
    name = (values.get("architectures") or ["none"])[0]
    if values.get("auto_map"):
        problem = f"the model ({name}) brings code of its own (auto_map), which is never run"
        raise MismatchError(problem, place=place, hint=HINT)
    found = next((known for known in ARCHITECTURES if known.name == name), None)
    if found is None:
        raise MismatchError(f"the architecture is {name}", place=place, hint=HINT)
    given = {**found.defaults, **values}
    expected = _gpt2_expected(given) if found.family == "gpt2" else _llama_expected(found, given)
    expected["quantization_config"] = (given.get("quantization_config"), None)
    for key, (is_, wanted) in expected.items():
        if is_ != wanted:
            raise MismatchError(f"{key} is {is_!r}, expected {wanted!r}", place=place, hint=HINT)
    try:
        shape = _gpt2_shape(given) if found.family == "gpt2" else _llama_shape(found, given)
        return ModelConfig(
            vocab_size=given["vocab_size"],
            tie_embeddings=given["tie_word_embeddings"],
            init_std=given.get("initializer_range", 0.02),
            **shape,
        )
    except KeyError as error:
        raise MismatchError(f"there is no setting {error}", place=place, hint=HINT) from None
    except ValidationError as error:
        raise MismatchError(error.errors()[0]["msg"], place=place, hint=HINT) from None


def sliding_window(values: Mapping[str, Any]) -> int | None:
    """How many tokens back a model sees, by its config.json; None where all of its context."""
    match (values.get("architectures") or ["none"])[0]:
        case "MistralForCausalLM":
            return values.get("sliding_window", 4096)
        case "Qwen3ForCausalLM" if values.get("use_sliding_window", False):
            return values.get("sliding_window", 4096)
    return None


def _llama_expected(made: Architecture, values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    rope = _rope(values)
    free = made.name in ("LlamaForCausalLM", "ArceeForCausalLM")  # where both biases can be switched on
    return {
        "hidden_act": (values["hidden_act"], made.defaults["hidden_act"]),
        "attention_bias": (values["attention_bias"], values["mlp_bias"] if free else False),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
        "partial_rotary_factor": (rope.get("partial_rotary_factor", 1.0), 1.0),
    }


def _llama_shape(made: Architecture, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "hidden_size": values["hidden_size"],
        "num_layers": values["num_hidden_layers"],
        "num_heads": values["num_attention_heads"],
        "num_kv_heads": values.get("num_key_value_heads") or values["num_attention_heads"],
        "head_size": values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"],
        "ffn_size": values["intermediate_size"],
        "context_length": min(values["max_position_embeddings"], sliding_window(values) or math.inf),
        "rope_theta": _rope(values).get("rope_theta") or values.get("rope_theta") or 10_000.0,
        "norm_epsilon": values["rms_norm_eps"],
        "ffn": "relu2" if made.family == "arcee" else "swiglu",
        "qk_norm": made.family == "qwen3",
        "bias": values["attention_bias"],
    }


def _gpt2_expected(values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    activation = values["activation_function"]
    return {
        "activation_function": ("gelu_new" if activation == "gelu_pytorch_tanh" else activation, "gelu_new"),
        "scale_attn_weights": (values["scale_attn_weights"], True),
        "scale_attn_by_inverse_layer_idx": (values["scale_attn_by_inverse_layer_idx"], False),
        "add_cross_attention": (values["add_cross_attention"], False),
    }


def _gpt2_shape(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "hidden_size": values["n_embd"],
        "num_layers": values["n_layer"],
        "num_heads": values["n_head"],
        "ffn_size": values.get("n_inner") or 4 * values["n_embd"],
        "context_length": values["n_positions"],
        "norm_epsilon": values["layer_norm_epsilon"],
        "positions": "learned",
        "norm": "layer",
        "ffn": "gelu",
        "bias": True,
    }


def _rope(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return values.get("rope_parameters") or values.get("rope_scaling") or {}


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


def _of_family(family: Family) -> Architecture:
    return next(known for known in ARCHITECTURES if known.family == family)


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
