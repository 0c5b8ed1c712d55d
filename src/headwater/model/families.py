"""The families of models in the words of transformers: what config.json says of them. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from headwater.core.errors import MismatchError
from headwater.model.shape import Family, ModelConfig


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


def _of_family(family: Family) -> Architecture:
    return next(known for known in ARCHITECTURES if known.family == family)
