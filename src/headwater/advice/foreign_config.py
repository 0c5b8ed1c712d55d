"""config.json of transformers -> Architecture, for the kinds of models that are trained most. No torch, no transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from headwater.advice.architecture import Architecture
from headwater.core.config import nearest
from headwater.core.errors import InputError

Json = Mapping[str, Any]


def architecture_of(values: Json, place: str) -> Architecture:
    """The architecture of the parsed config.json at `place`.

    Raises:
        InputError: its kind of model is not known, or a number is missing.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("text_config") or {}, Mapping):
        raise InputError("describes no model", place=place, hint="give the config.json of a model of transformers")
    kind = str(values.get("model_type", ""))
    values = values.get("text_config") or values  # of models that see as well
    kind = str(values.get("model_type", kind)).removesuffix("_text")
    if kind not in KINDS:
        hint = "describe it in a models file, or take the shape of a model that is known"
        raise InputError(f"model_type '{kind}' is not known{nearest(kind, KINDS)}", place=place, hint=hint)
    try:
        return Architecture.model_validate({**KINDS[kind](values), "source": place})
    except KeyError as error:
        raise InputError(f"lacks {error}", place=place, hint="give the whole config.json") from None
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}", place=place) from None


def _llama(c: Json) -> dict[str, Any]:
    """What most kinds share."""
    shape: dict[str, Any] = {
        "hidden_size": c["hidden_size"], "num_layers": c["num_hidden_layers"], "num_heads": c["num_attention_heads"],
        "num_kv_heads": c.get("num_key_value_heads") or c["num_attention_heads"],
        "ffn_size": c["intermediate_size"], "vocab_size": c["vocab_size"],
        "tie_embeddings": bool(c.get("tie_word_embeddings", False)),
        "context_length": c.get("max_position_embeddings", 2048),
    }  # fmt: skip
    if c.get("head_dim"):
        shape["head_size"] = c["head_dim"]
    bias = ["qkv", "out"] if c.get("attention_bias") else []
    shape["bias"] = tuple(bias + (["ffn"] if c.get("mlp_bias") else []))
    return shape


def _mistral(c: Json) -> dict[str, Any]:
    return _llama(c) | {"window": c.get("sliding_window") or 0}


def _qwen2(c: Json) -> dict[str, Any]:
    window = c.get("sliding_window") if c.get("use_sliding_window") else 0
    return _llama(c) | {"bias": ("qkv",), "window": window or 0}


def _qwen3(c: Json) -> dict[str, Any]:
    return _llama({"head_dim": 128, **c}) | {"qk_norm": "head"}


def _qwen3_moe(c: Json) -> dict[str, Any]:
    return _qwen3(c) | _experts(c, c.get("num_experts") or c["num_local_experts"], c["moe_intermediate_size"])


def _mixtral(c: Json) -> dict[str, Any]:
    return _mistral(c) | _experts(c, c["num_local_experts"], c["intermediate_size"])


def _experts(c: Json, experts: int, size: int) -> dict[str, Any]:
    return {"experts": experts, "experts_per_token": c["num_experts_per_tok"], "expert_size": size}


def _deepseek(c: Json) -> dict[str, Any]:
    rope = c["qk_rope_head_dim"]
    shape = _llama({**c, "head_dim": c["qk_nope_head_dim"] + rope})
    shape |= {
        "num_kv_heads": c["num_attention_heads"], "value_size": c["v_head_dim"], "query_rank": c.get("q_lora_rank") or 0,
        "kv_rank": c["kv_lora_rank"], "rope_size": rope,
    }  # fmt: skip
    if not c.get("n_routed_experts"):
        return shape
    size = c["moe_intermediate_size"]
    return shape | _experts(c, c["n_routed_experts"], size) | {
        "shared_size": (c.get("n_shared_experts") or 0) * size, "dense_layers": c.get("first_k_dense_replace", 0),
        "router_bias": c.get("topk_method", "noaux_tc" if c["model_type"] == "deepseek_v3" else "") == "noaux_tc",
    }  # fmt: skip


def _gemma(norms: int, every: int) -> Callable[[Json], dict[str, Any]]:
    def read(c: Json) -> dict[str, Any]:
        shape = _llama({"tie_word_embeddings": True, "head_dim": 256, **c}) | {"norms": norms}
        if every:
            pattern = c.get("sliding_window_pattern") or c.get("_sliding_window_pattern") or every
            shape |= {"window": c.get("sliding_window") or 0, "global_every": pattern}
        return shape | {"qk_norm": "head" if every == 6 else "none"}

    return read


def _olmo2(c: Json) -> dict[str, Any]:
    return _llama(c) | {"qk_norm": "width"}


def _olmo(c: Json) -> dict[str, Any]:
    return _llama(c) | {"norm": "none"}


def _gpt2(c: Json) -> dict[str, Any]:
    return {
        "hidden_size": c["n_embd"], "num_layers": c["n_layer"], "num_heads": c["n_head"],
        "ffn_size": c.get("n_inner") or 4 * c["n_embd"], "gated": False, "vocab_size": c["vocab_size"],
        "tie_embeddings": c.get("tie_word_embeddings", True), "context_length": c["n_positions"], "norm": "layer",
        "learned_positions": c["n_positions"], "bias": ("qkv", "out", "ffn"),
    }  # fmt: skip


def _neox(c: Json) -> dict[str, Any]:
    return _llama(c) | {"gated": False, "norm": "layer", "bias": ("qkv", "out", "ffn")}


def _opt(c: Json) -> dict[str, Any]:
    shape = _llama({"intermediate_size": c["ffn_dim"], "tie_word_embeddings": True, **c})
    return shape | {
        "gated": False, "norm": "layer", "bias": ("qkv", "out", "ffn"),
        "learned_positions": c["max_position_embeddings"] + 2,
    }  # fmt: skip


def _bloom(c: Json) -> dict[str, Any]:
    hidden = c.get("hidden_size") or c["n_embed"]
    return {
        "hidden_size": hidden, "num_layers": c.get("n_layer") or c["num_hidden_layers"],
        "num_heads": c.get("n_head") or c["num_attention_heads"], "ffn_size": 4 * hidden, "gated": False,
        "vocab_size": c["vocab_size"], "tie_embeddings": True, "context_length": c.get("seq_length", 2048),
        "norm": "layer", "embedding_norm": True, "bias": ("qkv", "out", "ffn"),
    }  # fmt: skip


def _falcon(c: Json) -> dict[str, Any]:
    new = bool(c.get("new_decoder_architecture"))
    heads = c["num_attention_heads"]
    kv = c.get("num_kv_heads") or heads
    return {
        "hidden_size": c["hidden_size"], "num_layers": c["num_hidden_layers"], "num_heads": heads,
        "num_kv_heads": kv if new or not c.get("multi_query", True) else 1,
        "ffn_size": c.get("ffn_hidden_size") or 4 * c["hidden_size"], "gated": False, "vocab_size": c["vocab_size"],
        "tie_embeddings": c.get("tie_word_embeddings", True), "norm": "layer", "norms": 2 if new else 1,
        "bias": ("qkv", "out", "ffn") if c.get("bias") else (),
    }  # fmt: skip


def _phi(c: Json) -> dict[str, Any]:
    return _llama(c) | {"gated": False, "norm": "layer", "norms": 1, "bias": ("qkv", "out", "ffn", "head")}


KINDS: dict[str, Callable[[Json], dict[str, Any]]] = {
    "llama": _llama, "mistral": _mistral, "ministral": _mistral, "mixtral": _mixtral, "qwen2": _qwen2, "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe, "deepseek_v2": _deepseek, "deepseek_v3": _deepseek, "gemma": _gemma(2, 0),
    "gemma2": _gemma(4, 2), "gemma3": _gemma(4, 6), "olmo": _olmo, "olmo2": _olmo2, "gpt2": _gpt2, "gpt_neox": _neox,
    "opt": _opt, "bloom": _bloom, "falcon": _falcon, "phi": _phi, "phi3": _llama, "smollm3": _llama, "granite": _llama,
    "arcee": lambda c: _llama(c) | {"gated": False},
}  # fmt: skip
"""model_type -> what it says of the shape. Source: the modelling code of transformers 5."""
